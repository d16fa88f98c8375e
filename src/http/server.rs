//! The accept loop: takes connections within bounds, serves them, and ends them in time. It knows nothing of routes.
//!
//! warp has no timers of its own, so everything that a slow or silent peer could hold open is bounded here.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{self, Either};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use warp::http::{HeaderValue, Request, Version, header};
use warp::reply::Response;

use super::arrival;
use super::body::Resettable;
use super::framing::{Ambiguous, Watched};
use super::origin;
use super::problem::{Kind, Problem};

/// The wait after a failed accept, doubled with every further one: file descriptors come back only when requests end.
const FIRST_ACCEPT_BACKOFF: Duration = Duration::from_millis(10);
/// Long enough not to spin, short enough that producers barely notice when it passes.
const MAX_ACCEPT_BACKOFF: Duration = Duration::from_secs(1);
/// More headers than any client sends.
const MAX_HEADERS: usize = 64;
/// The connection's read buffer, and with it the largest head of a request. Above hyper's minimum of 8 KiB.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// HTTP/2: requests at once on one connection, so that it takes many to fill [`ServerLimits::streams`]. Producers that want
/// more open another.
const MAX_STREAMS: u32 = 32;
/// HTTP/2: the largest head of a request, decompressed: room for a key, a signature and what proxies add, several times over.
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;
/// HTTP/2: how often a silent peer is asked whether it is still there, and for how long it may not answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Where a request came from: an extension of every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub SocketAddr);

/// What connections may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerLimits {
    /// Connections at once. Further ones wait in the kernel's queue.
    pub connections: usize,
    /// HTTP/2: requests at once on all connections together, since each holds its head until it is answered. Further ones are
    /// answered with 503. Those of HTTP/1 are one a connection, and nobody's streams can take their places.
    pub streams: usize,
    /// For the first request's head; on HTTP/1 for every head, the silence before it included.
    pub header_timeout: Duration,
    /// A connection on which no request began or ended for so long, and none is being worked on, is closed: also when
    /// the peer does not read its answer.
    pub idle_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            // Far more than producers need, and each costs a file descriptor and about 20 KiB.
            connections: 4096,
            // Their heads take 128 MiB at most.
            streams: 8192,
            // A head is one packet; who needs longer is not a client.
            header_timeout: Duration::from_secs(30),
            // As proxies in front of us do.
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// Serves until `stopped` resolves, then lets the requests under way end, for at most `drain`.
pub(super) async fn run<S>(
    listener: TcpListener,
    service: S,
    limits: ServerLimits,
    stopped: impl Future<Output = ()> + Send,
    drain: Duration,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let http = Arc::new(protocol(&limits));
    let places = Arc::new(Semaphore::new(limits.connections));
    let streams = Arc::new(Semaphore::new(limits.streams));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stopped = pin!(stopped);
    loop {
        let (stream, peer, place) = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = accept(&listener, &places) => accepted,
        };
        while connections.try_join_next().is_some() {}
        let (http, service, streams) = (http.clone(), service.clone(), streams.clone());
        let connection = Connection { http, service, streams, peer, limits, _place: place };
        connections.spawn(connection.serve(stream, graceful.watcher()));
    }
    drop(listener);
    if timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("closing connections whose requests did not end in time");
    }
    connections.shutdown().await;
}

/// The next connection, once there is a place for it. Never fails: what accept reports passes (descriptors run out, a
/// peer gave up), and a listener that stopped listening would be an outage until someone noticed.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
    let mut backoff = FIRST_ACCEPT_BACKOFF;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, place),
            Err(error) => {
                tracing::warn!(%error, ?backoff, "a connection could not be accepted");
                sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_ACCEPT_BACKOFF);
            }
        }
    }
}

fn protocol(limits: &ServerLimits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1);
    http
}

struct Connection<S> {
    http: Arc<auto::Builder<TokioExecutor>>,
    service: S,
    streams: Arc<Semaphore>,
    peer: SocketAddr,
    limits: ServerLimits,
    /// Given back with the connection.
    _place: OwnedSemaphorePermit,
}

impl<S> Connection<S>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    async fn serve(self, stream: TcpStream, watcher: Watcher) {
        // Without it, an answer that follows another on the same connection waits for the peer's acknowledgement.
        let _ = stream.set_nodelay(true);
        let activity = Arc::new(Activity::default());
        let ambiguous = Arc::new(Ambiguous::default());
        let stream = Watched::new(stream, ambiguous.clone());
        let (service, streams, peer, counted) = (self.service, self.streams, self.peer, activity.clone());
        let service = service_fn(move |request| {
            let (number, end) = counted.clone().begin();
            let stream = request.version() == Version::HTTP_2;
            let place = stream.then(|| streams.clone().try_acquire_owned());
            let refused = length_refused(&request, ambiguous.is(number))
                .or_else(|| origin::refuse(&request))
                .or_else(|| place.as_ref().is_some_and(Result::is_err).then(too_many_streams));
            let answer = answer(&service, peer, request, refused);
            end.after(async move {
                let _place = place;
                answer.await
            })
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(watcher.watch(connection));
        // The first wait is shorter: before hyper knows the protocol it has no timer of its own running.
        let mut patience = self.limits.header_timeout;
        loop {
            let before = activity.count_now();
            // How it ended is the peer's affair: errors here are resets, bad requests, and timeouts.
            if timeout(patience, connection.as_mut()).await.is_ok() || activity.idle_since(before) {
                return;
            }
            patience = self.limits.idle_timeout;
        }
    }
}

fn answer<S>(
    service: &S,
    peer: SocketAddr,
    mut request: Request<Incoming>,
    refused: Option<Problem>,
) -> impl Future<Output = Result<Response, Infallible>> + use<S>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    // A proxy that does not read the chunks as we do would take what follows for another request, so nothing may follow.
    let last = request.headers().contains_key(header::TRANSFER_ENCODING);
    let answer = match refused {
        Some(problem) => Either::Left(future::ready(Ok(problem.into_response()))),
        None => {
            let arrival = arrival::of(request.headers());
            request.extensions_mut().insert(Peer(peer));
            request.extensions_mut().insert(arrival);
            if request.version() == Version::HTTP_2 {
                request.extensions_mut().insert(Resettable);
            }
            Either::Right(service.call(request))
        }
    };
    async move {
        let mut response = answer.await?;
        if last {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Refuses a request that names its length twice, as RFC 9112 (6.3) advises: whoever forwarded it may have believed the
/// other one. HTTP/2 has lengths of its own, and h2 compares them; two equal ones pass it.
fn length_refused<B>(request: &Request<B>, ambiguous: bool) -> Option<Problem> {
    let twice = request.headers().get_all(header::CONTENT_LENGTH).iter().nth(1).is_some();
    (ambiguous || twice).then(|| {
        let detail = "the request names its length twice (Content-Length again, or beside Transfer-Encoding)";
        Problem::new(Kind::AmbiguousLength, detail).close_connection()
    })
}

fn too_many_streams() -> Problem {
    Problem::new(Kind::Busy, "this node works on as many HTTP/2 requests as it may").retry_after(1)
}

/// Counts a connection's requests.
#[derive(Default)]
struct Activity {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Activity {
    /// The number of the request that begins, 1 for the first, and what counts its end.
    fn begin(self: Arc<Self>) -> (usize, End) {
        (self.begun.fetch_add(1, Ordering::Relaxed) + 1, End(self))
    }

    fn count_now(&self) -> (usize, usize) {
        (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
    }

    fn idle_since(&self, before: (usize, usize)) -> bool {
        before == self.count_now() && before.0 == before.1
    }
}

/// Counts the end when it is dropped: a request can also end because its connection did.
struct End(Arc<Activity>);

impl End {
    async fn after<T>(self, answer: impl Future<Output = T>) -> T {
        let _end = self;
        answer.await
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
