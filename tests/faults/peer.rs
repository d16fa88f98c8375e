//! A receiver that misbehaves below HTTP: what comes is read and noted, then the connection is the behaviour's to treat.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, interval};

use crate::PATIENCE;

/// The header line of a receiver that wants a connection for each attempt.
pub const CLOSE: &str = "connection: close\r\n";

/// What becomes of a request once it has been read.
#[derive(Clone, Debug)]
pub enum Does {
    /// Answers with this status and these header lines, and goes on unless they say [`CLOSE`].
    Answer(u16, &'static str),
    /// Never answers.
    Hang,
    /// Answers a byte a second, of more than anybody waits for.
    Drip,
    /// Resets the connection.
    Reset,
    /// Answers with this head, and then with this piece again and again, as long as anybody takes it.
    Pour(&'static str, Arc<[u8]>),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub at: Instant,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// Its number, from 0. The answer's body names it.
    pub nth: usize,
    /// What it was answered, if it was.
    pub status: Option<u16>,
}

impl Arrived {
    pub fn id(&self) -> &str {
        self.headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default()
    }
}

/// See the module's docs. Ends with the test's runtime.
pub struct Peer {
    pub addr: SocketAddr,
    notes: Notes,
}

#[derive(Clone)]
struct Notes {
    arrived: Arc<Mutex<Vec<Arrived>>>,
    count: watch::Sender<usize>,
    /// How long the caller held on to each request that was not answered to its end.
    held: watch::Sender<Vec<Duration>>,
    /// Bytes of poured answers that somebody took.
    poured: Arc<Mutex<u64>>,
}

impl Peer {
    /// Does this with every request.
    pub async fn always(does: Does) -> Self {
        Self::start(move |_| does.clone()).await
    }

    /// Does what `script` says of the n-th request, from 0.
    pub async fn start(script: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), script).await
    }

    /// The same at a known address.
    pub async fn at(addr: SocketAddr, script: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(addr).expect("a free port");
        let listener = socket.listen(1024).expect("a listener");
        let addr = listener.local_addr().expect("an address");
        let notes = Notes {
            arrived: Arc::default(),
            count: watch::Sender::new(0),
            held: watch::Sender::default(),
            poured: Arc::default(),
        };
        tokio::spawn(accept(listener, Arc::new(script), notes.clone()));
        Self { addr, notes }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }

    pub fn arrived(&self) -> Vec<Arrived> {
        self.notes.arrived.lock().expect("unpoisoned").clone()
    }

    pub fn count(&self) -> usize {
        *self.notes.count.borrow()
    }

    pub fn poured(&self) -> u64 {
        *self.notes.poured.lock().expect("unpoisoned")
    }

    /// How long the caller waited before it closed the connection, once it has done so for so many requests.
    pub async fn held(&self, count: usize) -> Vec<Duration> {
        let mut held = self.notes.held.subscribe();
        let closed = tokio::time::timeout(PATIENCE, held.wait_for(|held| held.len() >= count)).await;
        closed
            .unwrap_or_else(|_| panic!("not {count} connections were closed after {PATIENCE:?}"))
            .expect("it goes on")
            .clone()
    }

    /// All requests, once there are so many.
    pub async fn after(&self, count: usize) -> Vec<Arrived> {
        let mut counted = self.notes.count.subscribe();
        let came = tokio::time::timeout(PATIENCE, counted.wait_for(|so_far| *so_far >= count)).await.is_ok();
        assert!(came, "{} requests of {count} after {PATIENCE:?}", self.count());
        self.arrived()
    }
}

type Script = dyn Fn(usize) -> Does + Send + Sync;

async fn accept(listener: TcpListener, script: Arc<Script>, notes: Notes) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(stream, script.clone(), notes.clone()));
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, notes: Notes) {
    let mut read = Vec::new();
    while let Some(arrived) = request(&mut stream, &mut read).await {
        let (came, nth, does) = notes.add(arrived, &script);
        match does {
            Does::Answer(status, lines) => {
                let body = format!("receipt {nth}");
                let length = body.len();
                let answer = format!("HTTP/1.1 {status} .\r\n{lines}content-length: {length}\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() || lines == CLOSE {
                    return;
                }
            }
            Does::Hang => {
                let _ = stream.read(&mut [0]).await;
                return notes.close(came);
            }
            Does::Drip => {
                drip(stream).await;
                return notes.close(came);
            }
            Does::Reset => return drop(stream.set_zero_linger()),
            Does::Pour(head, piece) => return pour(stream, head, &piece, &notes).await,
        }
    }
}

/// The next request, with what has been read beyond it left in `read`.
async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<Arrived> {
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let headers = headers(&String::from_utf8_lossy(&read[..end]));
            let length =
                headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0);
            if let Some(body) = read.get(end + 4..end + 4 + length) {
                let arrived = Arrived { at: Instant::now(), headers, body: body.to_vec(), nth: 0, status: None };
                read.drain(..end + 4 + length);
                return Some(arrived);
            }
        }
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}

fn headers(head: &str) -> HeaderMap {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines
        .filter_map(|(name, value)| Some((name.trim().parse::<http::HeaderName>().ok()?, value.trim().parse().ok()?)))
        .collect()
}

async fn drip(stream: TcpStream) {
    let (mut caller, mut stream) = stream.into_split();
    let mut second = interval(Duration::from_secs(1));
    let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".bytes().chain(std::iter::repeat(b'.'));
    loop {
        tokio::select! {
            _ = second.tick() => {}
            _ = caller.read_u8() => return,
        }
        if stream.write_all(&[answer.next().expect("it has no end")]).await.is_err() {
            return;
        }
    }
}

async fn pour(mut stream: TcpStream, head: &str, piece: &[u8], notes: &Notes) {
    let mut taken = stream.write_all(head.as_bytes()).await.is_ok();
    while taken {
        taken = match stream.write(piece).await {
            Ok(written) => {
                *notes.poured.lock().expect("unpoisoned") += written as u64;
                stream.write_all(&piece[written..]).await.is_ok()
            }
            Err(_) => false,
        };
    }
}

impl Notes {
    /// When it came, its number, and what becomes of it.
    fn add(&self, mut arrived: Arrived, script: &Arc<Script>) -> (Instant, usize, Does) {
        let mut all = self.arrived.lock().expect("unpoisoned");
        let (came, nth) = (arrived.at, all.len());
        let does = script(nth);
        arrived.nth = nth;
        arrived.status = if let Does::Answer(status, _) = does { Some(status) } else { None };
        all.push(arrived);
        self.count.send_replace(all.len());
        (came, nth, does)
    }

    /// The caller of a request that came then has closed the connection.
    fn close(&self, came: Instant) {
        self.held.send_modify(|held| held.push(came.elapsed()));
    }
}

/// An address that takes no connection and refuses none: its queue is full, so the kernel drops what comes. Returns what
/// keeps it so.
pub async fn black_hole(ip: Ipv4Addr) -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((ip, 0).into()).expect("a free port");
    let listener = socket.listen(0).expect("a listener");
    let addr = listener.local_addr().expect("an address");
    let mut held = Vec::new();
    // Whoever finds the queue full does not come through.
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(addr)).await {
        held.push(connected.expect("it is not refused"));
    }
    (addr, (listener, held))
}
