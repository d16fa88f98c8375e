//! The producer: closed loop for throughput, open loop for latency.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
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
    let due_at = timeline.clone();
    let due = pace((0..total).map(move |number| due_at.due_ns[number]));
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

/// Events beside a measurement, each at its own instant, to one subscription after the other. What the service answers to
/// them is counted, not judged: it may refuse what is too much.
pub struct Load {
    at_once: usize,
    start_ns: u64,
    shared: Arc<LoadShared>,
    tasks: JoinSet<anyhow::Result<()>>,
}

struct LoadShared {
    stopped: AtomicBool,
    sent: AtomicUsize,
    answered: AtomicUsize,
    refused: AtomicUsize,
}

/// What became of a load.
pub struct Answers {
    /// Events sent, without those at once.
    pub per_second: f64,
    /// Of all of them, those that were answered with 429 or 503.
    pub refused: f64,
}

impl Load {
    /// `at_once` events now, then so many a second until it is stopped.
    pub fn start(addr: SocketAddr, events: &Events, to: Vec<usize>, at_once: usize, per_second: usize) -> Self {
        let shared = Arc::new(LoadShared {
            stopped: AtomicBool::new(false),
            sent: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        });
        let (start, gap) = (now_ns(), 1_000_000_000 / per_second as u64);
        let going_on = shared.clone();
        let due = pace(
            (0..)
                .map(move |n: usize| start + n.saturating_sub(at_once) as u64 * gap)
                .take_while(move |_| !going_on.stopped.load(Relaxed)),
        );
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS {
            tasks.spawn(offer(addr, events.clone(), to.clone(), due.clone(), shared.clone()));
        }
        Self { at_once, start_ns: start, shared, tasks }
    }

    /// Waits until so many events have been answered.
    pub async fn answered(&mut self, count: usize) -> anyhow::Result<()> {
        while self.shared.answered.load(Relaxed) < count {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => ended??,
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        Ok(())
    }

    pub async fn stop(mut self) -> anyhow::Result<Answers> {
        self.shared.stopped.store(true, Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        let answered = self.shared.answered.load(Relaxed);
        let took_s = (now_ns() - self.start_ns) as f64 / 1e9;
        Ok(Answers {
            per_second: answered.saturating_sub(self.at_once) as f64 / took_s,
            refused: self.shared.refused.load(Relaxed) as f64 / answered as f64,
        })
    }
}

async fn offer(
    addr: SocketAddr,
    events: Events,
    to: Vec<usize>,
    due: Arc<Semaphore>,
    load: Arc<LoadShared>,
) -> anyhow::Result<()> {
    let mut stream = connect(addr).await?;
    let (read, mut write) = stream.split();
    let mut reader = Reader::new(read);
    let mut request = Vec::with_capacity(1024);
    loop {
        due.acquire().await?.forget();
        if load.stopped.load(Relaxed) {
            return Ok(());
        }
        let number = load.sent.fetch_add(1, Relaxed);
        events.request(number, to[number % to.len()], &mut request);
        write.write_all(&request).await?;
        let answer = reader.next().await?.context("the service closed the connection")?;
        match answer.status() {
            202 => {}
            429 | 503 => _ = load.refused.fetch_add(1, Relaxed),
            _ => bail!("{}{}", text(answer.head), text(answer.body)),
        }
        load.answered.fetch_add(1, Relaxed);
    }
}

/// One permit an event, at its instant. A thread of its own: the runtime's timer has a resolution of a millisecond.
fn pace(due_ns: impl Iterator<Item = u64> + Send + 'static) -> Arc<Semaphore> {
    let due = Arc::new(Semaphore::new(0));
    let permits = due.clone();
    std::thread::spawn(move || {
        for at in due_ns {
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
        bail!("{}{}", text(answer.head), text(answer.body));
    }
    Ok(())
}

async fn connect(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection for what is not load: one request after the other.
pub struct Caller {
    reader: Reader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Caller {
    pub async fn connect(addr: SocketAddr) -> anyhow::Result<Self> {
        let (read, write) = connect(addr).await?.into_split();
        Ok(Self { reader: Reader::new(read), write })
    }

    /// The answer's body, when it is a success.
    pub async fn call(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<Vec<u8>> {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n");
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        self.write.write_all(request.as_bytes()).await?;
        let answer = self.reader.next().await?.context("the service closed the connection")?;
        if !(200..300).contains(&answer.status()) {
            bail!("{method} {path}: {}{}", text(answer.head), text(answer.body));
        }
        Ok(answer.body.to_vec())
    }
}

/// Creates subscriptions with the benchmark's secret, in this order; their ids.
pub async fn subscribe(addr: SocketAddr, urls: impl Iterator<Item = String>) -> anyhow::Result<Vec<usize>> {
    let mut caller = Caller::connect(addr).await?;
    let mut ids = Vec::new();
    for url in urls {
        let body = format!("{{\"target_url\":\"{url}\",\"secret\":\"{SECRET}\"}}");
        let created: Value = serde_json::from_slice(&caller.call("POST", "/subscriptions", &body).await?)?;
        ids.push(created["id"].as_u64().context("an id")?.try_into()?);
    }
    Ok(ids)
}

/// Deletes them.
pub async fn unsubscribe(addr: SocketAddr, ids: &[usize]) -> anyhow::Result<()> {
    let mut caller = Caller::connect(addr).await?;
    for id in ids {
        caller.call("DELETE", &format!("/subscriptions/{id}"), "").await?;
    }
    Ok(())
}

/// How long each of these paths takes to be answered, in milliseconds, one after the other.
pub async fn get_each(addr: SocketAddr, paths: &[String]) -> anyhow::Result<Vec<f64>> {
    let mut caller = Caller::connect(addr).await?;
    let mut took = Vec::new();
    for path in paths {
        let start = now_ns();
        caller.call("GET", path, "").await?;
        took.push((now_ns() - start) as f64 / 1e6);
    }
    Ok(took)
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
