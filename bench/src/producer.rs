//! The producer: closed loop for throughput, open loop for latency.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock::now_ns;
use crate::events::{DISTINCT, Events, SECRET};
use crate::http1::Reader;

/// Connections of the closed loop.
pub const CONNECTIONS: usize = 64;
/// Most connections of the open loop.
const MAX_OPEN_CONNECTIONS: usize = 512;

/// Which subscription an event goes to.
#[derive(Clone)]
pub struct Spread {
    /// Ids from here on.
    pub first: usize,
    /// So many.
    pub count: usize,
}

impl Spread {
    fn subscription(&self, number: usize) -> usize {
        self.first + number % self.count
    }
}

/// Sends `total` events as fast as they are accepted, over [`CONNECTIONS`] connections; when the last was accepted.
pub async fn closed_loop(addr: SocketAddr, events: &Events, spread: &Spread, total: usize) -> anyhow::Result<u64> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS.min(total) {
        let (events, spread, next) = (events.clone(), spread.clone(), next.clone());
        tasks.spawn(async move {
            let mut stream = connect(addr).await?;
            let (read, mut write) = stream.split();
            let mut reader = Reader::new(read);
            let mut request = Vec::with_capacity(1024);
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= total {
                    return anyhow::Ok(());
                }
                events.request(number, spread.subscription(number), &mut request);
                write.write_all(&request).await?;
                accepted(&mut reader).await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(now_ns())
}

/// When each event was due, and when it was accepted.
pub struct Timeline {
    pub due_ns: Vec<u64>,
    pub acked_ns: Vec<AtomicU64>,
}

/// Sends `rate` events a second for so long, each at its own instant whatever became of those before it, so that a stall
/// of the service cannot hide: a latency counts from the instant at which the event was due.
pub async fn open_loop(
    addr: SocketAddr,
    events: &Events,
    spread: &Spread,
    rate: usize,
    seconds: usize,
) -> anyhow::Result<Arc<Timeline>> {
    let total = rate * seconds;
    if total > DISTINCT {
        bail!("{total} events need more than the {DISTINCT} distinct ones there are");
    }
    let start = now_ns() + 50_000_000;
    let gap = 1_000_000_000 / rate as u64;
    let timeline = Arc::new(Timeline {
        due_ns: (0..total as u64).map(|n| start + n * gap).collect(),
        acked_ns: std::iter::repeat_with(|| AtomicU64::new(0)).take(total).collect(),
    });
    let next = Arc::new(AtomicUsize::new(0));
    let due = pace(timeline.clone());
    let mut tasks = JoinSet::new();
    // As many connections as could be waiting for an answer at once if the service stalled for half a second.
    for _ in 0..(rate / 2).clamp(CONNECTIONS, MAX_OPEN_CONNECTIONS) {
        let (events, spread, next, timeline) = (events.clone(), spread.clone(), next.clone(), timeline.clone());
        let due = due.clone();
        tasks.spawn(async move {
            let mut stream = connect(addr).await?;
            let (read, mut write) = stream.split();
            let mut reader = Reader::new(read);
            let mut request = Vec::with_capacity(1024);
            loop {
                due.acquire().await?.forget();
                let number = next.fetch_add(1, Relaxed);
                if number >= total {
                    return anyhow::Ok(());
                }
                events.request(number, spread.subscription(number), &mut request);
                write.write_all(&request).await?;
                accepted(&mut reader).await?;
                timeline.acked_ns[number].store(now_ns(), Relaxed);
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(timeline)
}

/// One permit an event, at its instant. A thread of its own: the runtime's timer has a resolution of a millisecond.
fn pace(timeline: Arc<Timeline>) -> Arc<Semaphore> {
    let due = Arc::new(Semaphore::new(0));
    let permits = due.clone();
    std::thread::spawn(move || {
        for at in &timeline.due_ns {
            std::thread::sleep(Duration::from_nanos(at.saturating_sub(now_ns())));
            permits.add_permits(1);
        }
        // One more for each connection, to find that there is nothing left.
        permits.add_permits(MAX_OPEN_CONNECTIONS);
    });
    due
}

async fn accepted<R: tokio::io::AsyncRead + Unpin>(reader: &mut Reader<R>) -> anyhow::Result<()> {
    let answer = reader.next().await?.context("the service closed the connection")?;
    if answer.status() != 202 {
        bail!("{}{}", String::from_utf8_lossy(answer.head), String::from_utf8_lossy(answer.body));
    }
    Ok(())
}

async fn connect(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Creates subscriptions with the benchmark's secret, in this order.
pub async fn subscribe(addr: SocketAddr, urls: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut stream = connect(addr).await?;
    let (read, mut write) = stream.split();
    let mut reader = Reader::new(read);
    for url in urls {
        let body = format!("{{\"target_url\":\"{url}\",\"secret\":\"{SECRET}\"}}");
        let head = "POST /subscriptions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length";
        write.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
        let answer = reader.next().await?.context("the service closed the connection")?;
        if answer.status() != 201 {
            bail!("{}{}", String::from_utf8_lossy(answer.head), String::from_utf8_lossy(answer.body));
        }
    }
    Ok(())
}

/// How long each of these paths takes to be answered with 200, in milliseconds, one after the other.
pub async fn get_each(addr: SocketAddr, paths: &[String]) -> anyhow::Result<Vec<f64>> {
    let mut stream = connect(addr).await?;
    let (read, mut write) = stream.split();
    let mut reader = Reader::new(read);
    let mut took = Vec::new();
    for path in paths {
        let start = now_ns();
        write.write_all(format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").as_bytes()).await?;
        let answer = reader.next().await?.context("the service closed the connection")?;
        if answer.status() != 200 {
            bail!("{path}: {}{}", String::from_utf8_lossy(answer.head), String::from_utf8_lossy(answer.body));
        }
        took.push((now_ns() - start) as f64 / 1e6);
    }
    Ok(took)
}
