//! Receivers that misbehave, each on a port of its own for as long as it is kept.

use std::time::Duration;

use anyhow::bail;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::http1::Reader;
use crate::pool::WORKERS;

/// A way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Nobody listens.
    Refuses,
    /// Packets vanish: the connection is never made.
    BlackHole,
    /// Reads the request and says nothing.
    Hangs,
    /// Answers with a byte a second, for a day.
    Drips,
    /// Answers 500 at once.
    Fails,
    /// Answers 429 at once, and asks for a second of quiet.
    Limits,
    /// Answers 200 with 10 MB.
    Large,
    /// Reads the request and resets the connection.
    Resets,
}

/// What a slow one has to be sent, of what a shared pool would absorb: less proves nothing.
pub const TIMES_THE_POOL: f64 = 3.0;
/// A tenth is for what starts late.
const MARGIN: f64 = 1.1;
/// What a fast one is sent. A pool absorbs more than these two cores can produce.
const FAST_PER_SECOND: usize = 500;
/// The same for large answers, each of which costs the bench itself some hundred kilobytes.
const LARGE_PER_SECOND: usize = 50;
const LARGE_BYTES: usize = 10_000_000;
static PIECE: [u8; 50_000] = [b'.'; 50_000];
/// Small, so that the kernel does not take megabytes which nobody will read.
const LARGE_BUFFER_BYTES: u32 = 64 * 1024;
/// A connection on loopback that is not made in this time is not going to be.
const FILLED_AFTER: Duration = Duration::from_millis(300);

impl Bad {
    pub const ALL: [Self; 8] = [
        Self::Refuses,
        Self::BlackHole,
        Self::Hangs,
        Self::Drips,
        Self::Fails,
        Self::Limits,
        Self::Large,
        Self::Resets,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Refuses => "refuses",
            Self::BlackHole => "black hole",
            Self::Hangs => "hangs",
            Self::Drips => "drips",
            Self::Fails => "500",
            Self::Limits => "429",
            Self::Large => "10 MB",
            Self::Resets => "resets",
        }
    }

    /// For how long an attempt holds its worker, with the service's default timeouts: 5 s for the connection and 10 s for all.
    pub fn holds_s(self) -> Option<f64> {
        match self {
            Self::BlackHole => Some(5.0),
            Self::Hangs | Self::Drips => Some(10.0),
            Self::Refuses | Self::Fails | Self::Limits | Self::Large | Self::Resets => None,
        }
    }

    /// The load that it is sent.
    pub fn per_second(self) -> usize {
        match self.holds_s() {
            Some(holds_s) => beyond_the_pool(holds_s),
            None if self == Self::Large => LARGE_PER_SECOND,
            None => FAST_PER_SECOND,
        }
    }
}

/// Events a second that a shared pool would absorb, when each holds a worker for so long.
pub fn absorbed(holds_s: f64) -> f64 {
    WORKERS as f64 / holds_s
}

/// Three times as many, and a little more.
pub fn beyond_the_pool(holds_s: f64) -> usize {
    (MARGIN * TIMES_THE_POOL * absorbed(holds_s)).ceil() as usize
}

/// See the module's docs. Dropping it closes its connections.
pub struct BadReceiver {
    pub url: String,
    _port: Port,
}

#[expect(dead_code, reason = "held for what dropping them does")]
enum Port {
    /// Bound, so that nobody else gets it, and not listened on.
    Closed(TcpSocket),
    Full(TcpListener, Vec<TcpStream>),
    Open(JoinSet<()>),
}

impl BadReceiver {
    pub async fn start(kind: Bad) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if kind == Bad::Large {
            socket.set_send_buffer_size(LARGE_BUFFER_BYTES)?;
        }
        socket.bind("127.0.0.1:0".parse()?)?;
        let url = format!("http://{}/bad", socket.local_addr()?);
        let port = match kind {
            Bad::Refuses => Port::Closed(socket),
            Bad::BlackHole => fill(socket.listen(0)?).await?,
            _ => {
                let mut task = JoinSet::new();
                task.spawn(accept(socket.listen(1024)?, kind));
                Port::Open(task)
            }
        };
        Ok(Self { url, _port: port })
    }
}

/// Connects until the kernel has no place for another: it drops what asks for one from then on.
async fn fill(listener: TcpListener) -> anyhow::Result<Port> {
    let addr = listener.local_addr()?;
    let mut held = Vec::new();
    while let Ok(stream) = tokio::time::timeout(FILLED_AFTER, TcpStream::connect(addr)).await {
        held.push(stream?);
        if held.len() > 16 {
            bail!("the kernel goes on taking connections that nobody accepts: no black hole can be played here");
        }
    }
    Ok(Port::Full(listener, held))
}

async fn accept(listener: TcpListener, kind: Bad) {
    // Ends with this task, and its connections with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let _ = serve(stream, kind).await;
        });
    }
}

async fn serve(mut stream: TcpStream, kind: Bad) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if kind == Bad::Resets {
        stream.set_zero_linger()?;
    }
    let (read, mut write) = stream.split();
    let mut reader = Reader::new(read);
    while reader.next().await?.is_some() {
        match kind {
            Bad::Refuses | Bad::BlackHole | Bad::Resets => return Ok(()),
            Bad::Hangs => std::future::pending().await,
            Bad::Drips => {
                write.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 86400\r\n\r\n").await?;
                loop {
                    write.write_all(b".").await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Bad::Fails => write.write_all(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await?,
            Bad::Limits => {
                write.write_all(b"HTTP/1.1 429 Later\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n").await?;
            }
            Bad::Large => {
                write.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE_BYTES}\r\n\r\n").as_bytes()).await?;
                for _ in 0..LARGE_BYTES / PIECE.len() {
                    write.write_all(&PIECE).await?;
                }
            }
        }
    }
    Ok(())
}
