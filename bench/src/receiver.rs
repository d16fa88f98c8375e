//! The receivers: one listener, one path a subscription. Every receipt is counted and stamped; a receiver can be held.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};

use crate::clock::now_ns;
use crate::events::{self, DISTINCT};
use crate::http1::Reader;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const OK_AND_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

pub struct Receivers {
    pub addr: SocketAddr,
    pub seen: Arc<Seen>,
    held: watch::Sender<bool>,
}

/// What has come.
pub struct Seen {
    count: AtomicU64,
    last_ns: AtomicU64,
    /// When each event came last, by number.
    received_ns: Vec<AtomicU64>,
    /// Every event with its instant, in the order in which they came, while asked for.
    arrivals: std::sync::Mutex<Vec<(u32, u64)>>,
    keep_arrivals: AtomicBool,
    wanted: AtomicU64,
    reached: Notify,
}

impl Receivers {
    pub async fn start() -> anyhow::Result<Self> {
        Self::listen(TcpListener::bind("127.0.0.1:0").await?, OK)
    }

    /// The same, but every answer ends its connection, so that every attempt needs a new one.
    pub async fn start_closing() -> anyhow::Result<Self> {
        Self::listen(TcpListener::bind("127.0.0.1:0").await?, OK_AND_CLOSE)
    }

    /// Where somebody has been expected already.
    pub fn listen_at(socket: TcpSocket) -> anyhow::Result<Self> {
        Self::listen(socket.listen(1024)?, OK)
    }

    fn listen(listener: TcpListener, answer: &'static [u8]) -> anyhow::Result<Self> {
        let addr = listener.local_addr()?;
        let seen = Arc::new(Seen {
            count: AtomicU64::new(0),
            last_ns: AtomicU64::new(0),
            received_ns: std::iter::repeat_with(|| AtomicU64::new(0)).take(DISTINCT).collect(),
            arrivals: std::sync::Mutex::default(),
            keep_arrivals: AtomicBool::new(false),
            wanted: AtomicU64::new(u64::MAX),
            reached: Notify::new(),
        });
        let held = watch::Sender::new(false);
        tokio::spawn(accept(listener, answer, seen.clone(), held.subscribe()));
        Ok(Self { addr, seen, held })
    }

    pub fn url(&self, subscription: usize) -> String {
        format!("http://{}/r/{subscription}", self.addr)
    }

    /// While held, requests are read and not answered.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

impl Seen {
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub fn last_ns(&self) -> u64 {
        self.last_ns.load(Relaxed)
    }

    pub fn received_ns(&self, number: usize) -> u64 {
        self.received_ns[number % DISTINCT].load(Relaxed)
    }

    pub fn forget(&self) {
        self.received_ns.iter().for_each(|at| at.store(0, Relaxed));
        self.arrivals.lock().expect("unpoisoned").clear();
    }

    pub fn keep_arrivals(&self, keep: bool) {
        self.keep_arrivals.store(keep, Relaxed);
    }

    /// Numbers and instants, in order.
    pub fn arrivals(&self) -> Vec<(u32, u64)> {
        std::mem::take(&mut *self.arrivals.lock().expect("unpoisoned"))
    }

    /// Waits until so many have come since the start of the program.
    pub async fn reach(&self, count: u64) {
        self.wanted.store(count, Relaxed);
        loop {
            let reached = self.reached.notified();
            if self.count() >= count {
                return;
            }
            reached.await;
        }
    }

    fn note(&self, number: Option<usize>) {
        let now = now_ns();
        if let Some(number) = number {
            self.received_ns[number % DISTINCT].store(now, Relaxed);
            if self.keep_arrivals.load(Relaxed) {
                self.arrivals.lock().expect("unpoisoned").push((u32::try_from(number).unwrap_or(u32::MAX), now));
            }
        }
        self.last_ns.store(now, Relaxed);
        if self.count.fetch_add(1, Relaxed) + 1 >= self.wanted.load(Relaxed) {
            self.reached.notify_waiters();
        }
    }
}

async fn accept(listener: TcpListener, answer: &'static [u8], seen: Arc<Seen>, held: watch::Receiver<bool>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (seen, held) = (seen.clone(), held.clone());
        tokio::spawn(async move {
            let _ = serve(stream, answer, seen, held).await;
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: &'static [u8],
    seen: Arc<Seen>,
    mut held: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.split();
    let mut reader = Reader::new(read);
    while let Some(request) = reader.next().await? {
        seen.note(events::number(request.body));
        if *held.borrow() {
            held.wait_for(|held| !held).await?;
        }
        write.write_all(answer).await?;
        if answer == OK_AND_CLOSE {
            break;
        }
    }
    Ok(())
}
