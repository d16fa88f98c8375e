//! What must hold of a request's frame and body.

use bytes::Bytes;
use futures_util::stream;
use serde::de::IgnoredAny;

use super::body::{Bodies, BodyLimits};
use super::event_body::new_event;
use super::framing::Framing;
use super::json;
use super::problem::Kind;
use crate::access::Caller;

/// Small enough that most bodies come to both sides of it.
const MAX_BODY_BYTES: usize = 512;

/// The number of the first ambiguous request, and how many requests were seen up to it or the end.
fn watched<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Option<usize>, usize) {
    let mut framing = Framing::default();
    for piece in pieces {
        if let Some(request) = framing.read(piece) {
            return (Some(request), framing.requests());
        }
    }
    (None, framing.requests())
}

/// How requests are cut into packets changes nothing, and no body is taken for a head: it is skipped, whatever is in it.
pub fn framing(data: &[u8]) {
    let whole = watched(std::iter::once(data));
    for size in [1, 2, 7, 64] {
        assert_eq!(watched(data.chunks(size)), whole, "in pieces of {size} bytes");
    }
    let length = data.len();
    let request = [format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n").as_bytes(), data].concat();
    let twice = b"POST / HTTP/1.1\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n".as_slice();
    assert_eq!(watched([request.as_slice(), &request, twice].into_iter()), (Some(3), 3));
}

/// A body arrives as it was sent, however it was cut, or is refused as too large; what is taken for JSON is JSON and no
/// deeper than the limit; the payload of an event stands in its body. The first byte says how the rest is cut.
pub fn ingest_body(data: &[u8]) {
    let Some((cut, body)) = data.split_first() else { return };
    let read = read(body, usize::from(*cut) + 1);
    match &read {
        Ok(read) => assert!(read == body && body.len() <= MAX_BODY_BYTES),
        Err(kind) => assert!(*kind == Kind::PayloadTooLarge && body.len() > MAX_BODY_BYTES, "{kind:?}"),
    }
    let (depth, is_json) = (depth(body), is_json(body));
    match json::check(body) {
        Ok(()) => {
            assert!(is_json && depth <= json::MAX_DEPTH);
        }
        Err(why) => {
            assert!(!is_json || depth > json::MAX_DEPTH, "{why}");
            assert!(!why.contains(char::is_control), "{why:?}");
        }
    }
    if let Ok(event) = new_event(body, &Caller::anonymous()) {
        let payload = &event.payload;
        assert!(body.windows(payload.len()).any(|part| part == payload), "the payload is not a part of the body");
        assert_eq!(json::check(payload), Ok(()));
    }
}

fn read(body: &[u8], size: usize) -> Result<Bytes, Kind> {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    let bodies = Bodies::new(BodyLimits { max_bytes: MAX_BODY_BYTES, ..BodyLimits::default() });
    let frames = || stream::iter(body.chunks(size).map(|frame| Ok::<_, warp::Error>(Bytes::copy_from_slice(frame))));
    let read = |announced| RUNTIME.with(|runtime| runtime.block_on(bodies.read(announced, frames())));
    let (silent, announced) = (read(None).map_err(|problem| problem.kind()), read(Some(body.len() as u64)));
    assert_eq!(announced.map_err(|problem| problem.kind()), silent, "the announcement changes what is read");
    silent
}

/// In UTF-8, which skipping a value does not check.
fn is_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// Of text that is JSON; otherwise any number.
fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut rest) = (0_usize, 0, body.iter());
    while let Some(byte) = rest.next() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => while rest.next().is_some_and(|byte| *byte != b'"' && (*byte != b'\\' || rest.next().is_some())) {},
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
