//! The receiver: writes down each request that it has read whole, with its signatures verified, before it answers. It has
//! moods, drawn from a seed, until it is told to be good.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::chance::Chance;
use super::notes::{Notes, Receipt};
use super::producer::Subscriber;
use super::signatures;

/// Of a hundred requests, how many end in each of these ways; the rest is answered with 200.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moods {
    pub fails: u64,
    /// Never answered.
    pub hangs: u64,
    /// The connection is closed without an answer.
    pub resets: u64,
    /// Answered with 200 once the next request has come.
    pub slow: u64,
}

impl Moods {
    pub const GOOD: Self = Self { fails: 0, hangs: 0, resets: 0, slow: 0 };
    /// Bad enough that retries, timeouts and unfinished attempts are always around.
    pub const MIXED: Self = Self { fails: 8, hangs: 3, resets: 4, slow: 20 };
    pub const DEAF: Self = Self { hangs: 100, ..Self::GOOD };
}

/// See the module's docs. Ends with the test's runtime.
pub struct Receiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    notes: Notes,
    started: Instant,
    /// By the last part of the path.
    subscribers: RwLock<Vec<Subscriber>>,
    moods: RwLock<Moods>,
    chance: Mutex<Chance>,
    next: AtomicU64,
    /// Receipts so far, and whether what waits is to be answered.
    count: watch::Sender<u64>,
    /// Connections that have not ended.
    open: watch::Sender<usize>,
}

/// A connection, until it is dropped.
struct Open(Arc<Shared>);

impl Open {
    fn count(shared: &Arc<Shared>) -> Self {
        shared.open.send_modify(|open| *open += 1);
        Self(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// Whose request is no event's: it is answered, and not noted.
const LAST: &str = "/last";
/// How long it may take to read what a dead process has sent.
const READ_PATIENCE: Duration = Duration::from_secs(10);

impl Receiver {
    pub async fn start(file: &Path, moods: Moods, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            notes: Notes::at(file),
            started: Instant::now(),
            subscribers: RwLock::default(),
            moods: RwLock::new(moods),
            chance: Mutex::new(Chance::new(seed)),
            next: AtomicU64::new(1),
            count: watch::Sender::default(),
            open: watch::Sender::default(),
        });
        tokio::spawn(accept(listener, shared.clone()));
        Self { addr, shared }
    }

    /// Where the next subscription sends to: call [`Self::expect`] once it has an id.
    pub fn next_url(&self) -> String {
        format!("http://{}/{}", self.addr, self.shared.subscribers.read().expect("unpoisoned").len())
    }

    pub fn expect(&self, subscriber: Subscriber) {
        self.shared.subscribers.write().expect("unpoisoned").push(subscriber);
    }

    pub fn subscribers(&self) -> Vec<Subscriber> {
        self.shared.subscribers.read().expect("unpoisoned").clone()
    }

    pub fn set_moods(&self, moods: Moods) {
        *self.shared.moods.write().expect("unpoisoned") = moods;
        self.shared.count.send_modify(|_| {});
    }

    /// Milliseconds since it started: what its receipts are timed by.
    pub fn now_ms(&self) -> u64 {
        self.shared.now_ms()
    }

    /// Receipts so far.
    pub fn count(&self) -> u64 {
        *self.shared.count.borrow()
    }

    /// Waits until every connection has been read to its end; whoever made them is dead. Connections are accepted in the
    /// order in which they were made, so when one of our own is, all before it were.
    pub async fn has_read_all(&self) {
        let mut last = TcpStream::connect(self.addr).await.expect("it listens");
        let request = format!("GET {LAST} HTTP/1.1\r\nhost: receiver\r\nconnection: close\r\n\r\n");
        last.write_all(request.as_bytes()).await.expect("it reads");
        last.read_to_end(&mut Vec::new()).await.expect("it answers");
        drop(last);
        let mut open = self.shared.open.subscribe();
        let waited = tokio::time::timeout(READ_PATIENCE, open.wait_for(|open| *open == 0)).await;
        assert!(waited.is_ok(), "connections of a dead process do not end");
    }

    /// Waits for so many more.
    pub async fn more(&self, more: u64, patience: Duration) {
        let mut count = self.shared.count.subscribe();
        let wanted = *count.borrow() + more;
        let waited = tokio::time::timeout(patience, count.wait_for(|count| *count >= wanted)).await;
        assert!(waited.is_ok(), "no {more} more receipts within {patience:?}");
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // Out of file descriptors, for a moment: those who wait in the queue are taken then.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let (shared, open) = (shared.clone(), Open::count(&shared));
        let service = service_fn(move |request| answer(request, shared.clone()));
        tokio::spawn(async move {
            let _open = open;
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, io::Error> {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == LAST {
        return Ok(Response::default());
    }
    // Cut off on its way: nothing was received.
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let place: usize = parts.uri.path().trim_start_matches('/').parse().map_err(io::Error::other)?;
    let receipt = shared.note(place, &parts.headers, &body);
    let status = match receipt.answer.as_str() {
        "reset" => return Err(io::Error::other("a mood")),
        "hang" => std::future::pending().await,
        "slow" => {
            let mut count = shared.count.subscribe();
            let _ = count.changed().await;
            200
        }
        status => status.parse().expect("a status"),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("receipt {}", receipt.serial))));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    Ok(response)
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("no test is that long")
    }

    fn note(&self, place: usize, headers: &HeaderMap, body: &[u8]) -> Receipt {
        let subscriber = self.subscribers.read().expect("unpoisoned").get(place).cloned();
        let subscriber = subscriber.unwrap_or_else(|| panic!("nobody subscribed as number {place}"));
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("none").to_owned();
        let number = serde_json::from_slice::<Value>(body).ok().and_then(|body| body["n"].as_u64());
        let receipt = Receipt {
            // 0 is no event's: a body that nobody sent.
            number: number.unwrap_or_default(),
            subscription: subscriber.id,
            webhook_id: text("webhook-id"),
            attempt: text("x-hookpost-attempt").parse().unwrap_or_default(),
            serial: self.next.fetch_add(1, Ordering::Relaxed),
            answer: self.mood().to_owned(),
            at_ms: self.now_ms(),
            genuine: signatures::are_right(&subscriber.secret, headers, body),
        };
        self.notes.add(&receipt.line());
        self.count.send_modify(|count| *count += 1);
        receipt
    }

    fn mood(&self) -> &'static str {
        let Moods { fails, hangs, resets, slow } = *self.moods.read().expect("unpoisoned");
        let mut drawn = self.chance.lock().expect("unpoisoned").below(100);
        for (share, answer) in [(fails, "500"), (hangs, "hang"), (resets, "reset"), (slow, "slow")] {
            if drawn < share {
                return answer;
            }
            drawn -= share;
        }
        "200"
    }
}
