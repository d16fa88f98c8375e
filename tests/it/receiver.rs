//! A scriptable receiver on a real socket: answers as told, remembers what came, and signals each arrival.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, mpsc};

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Of [`Script::Large`].
pub const PIECE_BYTES: usize = 64 * 1024;

/// What the receiver does with one request.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    /// Answers with this status.
    Status(u16),
    /// 429 or 503 with `Retry-After` in seconds.
    RetryAfter(u16, u32),
    /// Never answers.
    Hang,
    /// Answers 200 once [`Receiver::tell`] is called.
    OnceTold,
    /// Answers 200 and a byte, of more that never come.
    Drip,
    /// Answers 200 and so many pieces of [`PIECE_BYTES`].
    Large(u32),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: tokio::time::Instant,
    /// What is done with it.
    pub script: Script,
}

impl Receipt {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }
}

/// See the module's docs. Stops with the test's runtime.
pub struct Receiver {
    pub addr: SocketAddr,
    script: Arc<Mutex<VecDeque<Script>>>,
    told: Arc<Semaphore>,
    pieces_taken: Arc<AtomicUsize>,
    receipts: mpsc::UnboundedReceiver<Receipt>,
}

impl Receiver {
    /// Answers 200, after the script is played.
    pub async fn start(script: impl IntoIterator<Item = Script>) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), script).await
    }

    /// The same at a known address: a receiver that comes back.
    pub async fn start_at(addr: SocketAddr, script: impl IntoIterator<Item = Script>) -> Self {
        Self::play(addr, script.into_iter().collect(), Script::Status(200)).await
    }

    /// Does this with every request.
    pub async fn always(script: Script) -> Self {
        Self::play("127.0.0.1:0".parse().expect("an address"), VecDeque::new(), script).await
    }

    async fn play(addr: SocketAddr, script: VecDeque<Script>, then: Script) -> Self {
        // A connection of its predecessor may linger on the port.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(addr).expect("a free port");
        let listener = socket.listen(1024).expect("a listener");
        let addr = listener.local_addr().expect("an address");
        let script = Arc::new(Mutex::new(script));
        let told = Arc::new(Semaphore::new(0));
        let pieces_taken = Arc::new(AtomicUsize::new(0));
        let (arrived, receipts) = mpsc::unbounded_channel();
        let behaviour =
            Behaviour { script: script.clone(), then, told: told.clone(), pieces_taken: pieces_taken.clone(), arrived };
        tokio::spawn(accept(listener, behaviour));
        Self { addr, script, told, pieces_taken, receipts }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.addr)
    }

    /// A port that nobody listens on once the socket is dropped.
    pub async fn reserve() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.expect("a free port")
    }

    /// Forgets what is left of the script.
    pub fn answer_from_now_on(&self) {
        self.script.lock().expect("unpoisoned").clear();
    }

    /// Lets one [`Script::OnceTold`] answer.
    pub fn tell(&self) {
        self.told.add_permits(1);
    }

    /// The next request.
    pub async fn next(&mut self) -> Receipt {
        tokio::time::timeout(PATIENCE, self.receipts.recv()).await.expect("a delivery in time").expect("a receipt")
    }

    /// Of all large answers, how many pieces somebody took.
    pub fn pieces_taken(&self) -> usize {
        self.pieces_taken.load(Ordering::Relaxed)
    }

    /// Requests that have come and were not asked for.
    pub fn unread(&mut self) -> Vec<Receipt> {
        std::iter::from_fn(|| self.receipts.try_recv().ok()).collect()
    }
}

#[derive(Clone)]
struct Behaviour {
    script: Arc<Mutex<VecDeque<Script>>>,
    then: Script,
    told: Arc<Semaphore>,
    pieces_taken: Arc<AtomicUsize>,
    arrived: mpsc::UnboundedSender<Receipt>,
}

async fn accept(listener: TcpListener, behaviour: Behaviour) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let behaviour = behaviour.clone();
        let service = service_fn(move |request| answer(request, behaviour.clone()));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(request: Request<Incoming>, behaviour: Behaviour) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let step = behaviour.note(parts.headers, body);
    let (status, retry_after) = match step {
        Script::Status(status) => (status, None),
        Script::RetryAfter(status, seconds) => (status, Some(seconds)),
        Script::Hang => std::future::pending().await,
        Script::OnceTold => {
            behaviour.told.acquire().await.expect("never closed").forget();
            (200, None)
        }
        Script::Drip | Script::Large(_) => (200, None),
    };
    let mut response = Response::new(body_of(step, behaviour.pieces_taken));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    if let Some(seconds) = retry_after {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    Ok(response)
}

impl Behaviour {
    /// Receipts are in the order of the script.
    fn note(&self, headers: HeaderMap, body: Bytes) -> Script {
        let mut queue = self.script.lock().expect("unpoisoned");
        let script = queue.pop_front().unwrap_or(self.then);
        let _ = self.arrived.send(Receipt { headers, body, at: tokio::time::Instant::now(), script });
        script
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn body_of(script: Script, pieces_taken: Arc<AtomicUsize>) -> Body {
    let frame = |bytes| Ok(Frame::data(bytes));
    match script {
        Script::Drip => {
            let first = stream::iter([frame(Bytes::from_static(b"."))]);
            BodyExt::boxed(StreamBody::new(first.chain(stream::pending())))
        }
        Script::Large(pieces) => {
            let piece = Bytes::from(vec![b'.'; PIECE_BYTES]);
            let taken = (0..pieces).map(move |_| {
                pieces_taken.fetch_add(1, Ordering::Relaxed);
                frame(piece.clone())
            });
            BodyExt::boxed(StreamBody::new(stream::iter(taken)))
        }
        _ => Full::new(Bytes::from_static(b"noted")).boxed(),
    }
}
