//! Reads request bodies within bounds: of each body's size and time, and of what all of them together may hold.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use warp::{Filter, Rejection};

use super::problem::{Kind, Problem};

/// The unit in which the memory for bodies is shared out: small enough for an event, large enough to count in 32 bits.
const SHARE_BYTES: usize = 1024;
/// A body up to this size is copied out of the connection's read buffer. A slice would keep all of that buffer (8 KiB
/// or more) for as long as the event waits, and the engine's budget counts payloads, not buffers.
const COPY_UP_TO_BYTES: usize = 4096;
/// How much of a body that is refused is read, so that its sender hears why: ordinary mistakes, not floods.
const DISCARD_UP_TO_BYTES: usize = 8 * 1024 * 1024;
/// And for how long: who sends nothing must not be held, head and all, for as long as who may send.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);
/// What a caller is told to wait when bodies hold all the memory they may.
const RETRY_AFTER_S: u64 = 1;

/// What bodies may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    /// Largest body.
    pub max_bytes: usize,
    /// From the head of the request to the end of its body.
    pub timeout: Duration,
    /// What the bodies that are being read may hold together.
    pub budget_bytes: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            // The promise of the API: payloads of up to 1 MiB.
            max_bytes: 1024 * 1024,
            // At this size even 1 Mbit/s is in time; who is slower holds a connection for nothing.
            timeout: Duration::from_secs(10),
            // 128 bodies of the largest size. Every connection may send one, so their number bounds nothing.
            budget_bytes: 128 * 1024 * 1024,
        }
    }
}

/// Marks a request whose body can be left unread without harm to the connection: on HTTP/2 it is reset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resettable;

/// The frames of a body, in warp's opaque types.
pub(super) trait Frames: Stream<Item = Result<Self::Frame, warp::Error>> + Unpin {
    type Frame: Buf;
}

impl<F: Stream<Item = Result<B, warp::Error>> + Unpin, B: Buf> Frames for F {
    type Frame = B;
}

/// A body that has not been read.
pub(super) struct Sent<F> {
    /// Its `Content-Length`.
    pub announced: Option<u64>,
    pub frames: F,
    pub resettable: bool,
}

/// The body of a request.
pub(super) fn sent() -> impl Filter<Extract = (Sent<impl Frames>,), Error = Rejection> + Copy {
    warp::header::optional("content-length").and(warp::body::stream()).and(warp::ext::optional()).map(
        |announced, frames, resettable: Option<Resettable>| Sent {
            announced,
            frames,
            resettable: resettable.is_some(),
        },
    )
}

/// Reads bodies.
pub(super) struct Bodies {
    limits: BodyLimits,
    shares: Semaphore,
}

impl Bodies {
    pub fn new(limits: BodyLimits) -> Self {
        Self { limits, shares: Semaphore::new(limits.budget_bytes / SHARE_BYTES) }
    }

    /// As [`Self::read`]; a body that is refused is read to its end all the same, as [`Self::discard`] says.
    pub async fn read_or_discard(&self, mut sent: Sent<impl Frames>) -> Result<Bytes, Problem> {
        match self.read(sent.announced, &mut sent.frames).await {
            Ok(body) => Ok(body),
            Err(problem) => Err(self.discard(sent, problem).await),
        }
    }

    /// Reads what is left of a refused request's body and keeps nothing of it. A connection that is closed while its
    /// peer still writes loses the answer, and one that is kept with half a body in it is useless: what does not end
    /// within bounds is closed, and the answer says so. Where a body can be reset, nothing of it is awaited.
    pub async fn discard(&self, mut sent: Sent<impl Frames>, problem: Problem) -> Problem {
        if sent.resettable {
            return problem;
        }
        let rest = async {
            let mut read = 0;
            while let Some(Ok(frame)) = sent.frames.next().await {
                read += frame.remaining();
                if read > DISCARD_UP_TO_BYTES {
                    return false;
                }
            }
            true
        };
        let ended = timeout(DISCARD_TIMEOUT.min(self.limits.timeout), rest).await.unwrap_or(false);
        if ended { problem } else { problem.close_connection() }
    }

    /// The whole body. `announced` is its `Content-Length`. What counts against the memory for all bodies is what has
    /// come: an announcement is free, and must not keep others out.
    pub async fn read(&self, announced: Option<u64>, frames: impl Frames) -> Result<Bytes, Problem> {
        let max = self.limits.max_bytes;
        let size = announced.map_or(max, |size| usize::try_from(size).unwrap_or(usize::MAX));
        if size > max {
            return Err(self.too_large());
        }
        match timeout(self.limits.timeout, self.collect(frames)).await {
            Ok(read) => read,
            Err(_) => Err(Problem::new(
                Kind::BodyTimeout,
                format!("the body did not arrive within {}", humantime::format_duration(self.limits.timeout)),
            )),
        }
    }

    async fn collect(&self, mut frames: impl Frames) -> Result<Bytes, Problem> {
        let first = self.next(&mut frames, 0).await?.unwrap_or_default();
        let mut held = self.reserve(shares(first.len()))?;
        let Some(second) = self.next(&mut frames, first.len()).await? else { return Ok(owned(first)) };
        let mut whole = BytesMut::with_capacity(2 * (first.len() + second.len()));
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&second);
        held.merge(self.reserve(missing(&held, whole.len()))?);
        while let Some(frame) = self.next(&mut frames, whole.len()).await? {
            whole.extend_from_slice(&frame);
            held.merge(self.reserve(missing(&held, whole.len()))?);
        }
        Ok(whole.freeze())
    }

    async fn next(&self, frames: &mut impl Frames, read: usize) -> Result<Option<Bytes>, Problem> {
        let Some(frame) = frames.next().await else { return Ok(None) };
        let mut frame = frame.map_err(|_| Problem::new(Kind::BodyNotRead, "the body ended too early"))?;
        if read + frame.remaining() > self.limits.max_bytes {
            return Err(self.too_large());
        }
        // The frame is a `Bytes` behind warp's opaque type: this takes it, without a copy.
        Ok(Some(frame.copy_to_bytes(frame.remaining())))
    }

    fn reserve(&self, shares: u32) -> Result<SemaphorePermit<'_>, Problem> {
        self.shares.try_acquire_many(shares).map_err(|_| {
            Problem::new(Kind::Busy, "this node reads as many bodies as it has memory for").retry_after(RETRY_AFTER_S)
        })
    }

    fn too_large(&self) -> Problem {
        Problem::new(Kind::PayloadTooLarge, format!("bodies of up to {} bytes are accepted", self.limits.max_bytes))
    }
}

fn shares(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(SHARE_BYTES)).unwrap_or(u32::MAX)
}

/// Shares that a body of this length needs on top of those that it has.
fn missing(held: &SemaphorePermit<'_>, bytes: usize) -> u32 {
    shares(bytes).saturating_sub(u32::try_from(held.num_permits()).unwrap_or(u32::MAX))
}

fn owned(body: Bytes) -> Bytes {
    if body.len() <= COPY_UP_TO_BYTES { Bytes::copy_from_slice(&body) } else { body }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::stream::{self, BoxStream};

    use super::*;

    const SMALL: BodyLimits = BodyLimits { max_bytes: 10, timeout: Duration::from_secs(5), budget_bytes: SHARE_BYTES };

    fn frames(parts: &[&'static str]) -> BoxStream<'static, Result<Bytes, warp::Error>> {
        stream::iter(parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect::<Vec<_>>()).boxed()
    }

    fn sent<F>(frames: F, resettable: bool) -> Sent<F> {
        Sent { announced: None, frames, resettable }
    }

    #[tokio::test]
    async fn frames_are_put_together_in_order() {
        let bodies = Bodies::new(SMALL);
        for parts in [&[][..], &["abc"], &["ab", "cd", "ef"]] {
            let body = bodies.read(None, frames(parts)).await.unwrap();
            assert_eq!(body, parts.concat());
        }
    }

    #[tokio::test]
    async fn a_body_is_accepted_up_to_its_limit_announced_or_not() {
        let bodies = Bodies::new(SMALL);
        assert_eq!(bodies.read(Some(10), frames(&["01234", "56789"])).await.unwrap(), "0123456789");
        let over = bodies.read(None, frames(&["01234", "56789", "x"])).await.unwrap_err();
        assert_eq!(over.kind(), Kind::PayloadTooLarge);
        let announced = bodies.read(Some(11), stream::pending::<Result<Bytes, _>>()).await.unwrap_err();
        assert_eq!(announced.kind(), Kind::PayloadTooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let stalled = frames(&["0"]).chain(stream::pending());
        assert_eq!(Bodies::new(SMALL).read(None, stalled).await.unwrap_err().kind(), Kind::BodyTimeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_body_is_read_to_its_end_and_one_without_an_end_closes_the_connection() {
        let bodies = Bodies::new(SMALL);
        let refused = || Problem::new(Kind::PayloadTooLarge, "over the limit");
        let mut ends = frames(&["01234", "56789", "x"]);
        assert!(!bodies.discard(sent(&mut ends, false), refused()).await.closes_connection());
        assert!(ends.next().await.is_none());
        let mut stalls = stream::pending::<Result<Bytes, _>>();
        assert!(bodies.discard(sent(&mut stalls, false), refused()).await.closes_connection());
        let mut floods = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 65_536])));
        assert!(bodies.discard(sent(&mut floods, false), refused()).await.closes_connection());
    }

    #[tokio::test]
    async fn a_refused_body_that_can_be_reset_is_not_waited_for() {
        let bodies = Bodies::new(SMALL);
        let stalls = stream::pending::<Result<Bytes, _>>();
        let refused = bodies.discard(sent(stalls, true), Problem::new(Kind::KeyMissing, "no key"));
        assert!(std::pin::pin!(refused).now_or_never().is_some_and(|problem| !problem.closes_connection()));
    }

    #[tokio::test]
    async fn bodies_share_a_budget_and_give_it_back() {
        let bodies = Bodies::new(SMALL);
        {
            let stalled = frames(&["0"]).chain(stream::pending());
            let mut first = std::pin::pin!(bodies.read(None, stalled));
            assert!(futures_util::poll!(first.as_mut()).is_pending());
            assert_eq!(bodies.read(None, frames(&["a"])).await.unwrap_err().kind(), Kind::Busy);
        }
        assert_eq!(bodies.read(None, frames(&["a"])).await.unwrap(), "a");
    }
}
