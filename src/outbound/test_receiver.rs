//! Receivers for tests, on real sockets: they behave as told and keep what they got. And canaries, which nobody may
//! connect to.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What a receiver does with every request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Writes this, and keeps the connection.
    Answer(String),
    /// Reads, and never answers.
    Hang,
    /// Writes this, then a byte at a time for ever, each well before any deadline.
    Drip(&'static str),
    /// Writes this, then as much as it can for ever.
    Flood(&'static str),
    /// Writes this again and again for ever.
    Repeat(&'static str),
    /// Writes this, then resets the connection.
    Reset(&'static str),
    /// Writes this, then closes the connection.
    Close(&'static str),
}

impl Behaviour {
    /// A whole answer with these header lines.
    pub fn answer(status: &str, headers: &[&str], body: &str) -> Self {
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        Self::Answer(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}"))
    }
}

/// A request as it came in.
#[derive(Debug)]
pub struct Received {
    /// 1 for the first.
    pub connection: usize,
    /// The request line and the headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Received {
    /// The value of the header; panics when it came more than once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let values: Vec<_> = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).collect();
        assert!(values.len() <= 1, "{name} came {} times", values.len());
        values.first().map(|(_, value)| *value)
    }
}

pub struct Receiver {
    pub addr: SocketAddr,
    requests: mpsc::UnboundedReceiver<Received>,
    /// One message a connection that ended.
    ends: mpsc::UnboundedReceiver<usize>,
}

impl Receiver {
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (requests_tx, requests) = mpsc::unbounded_channel();
        let (ends_tx, ends) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for connection in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (behaviour, requests, ends) = (behaviour.clone(), requests_tx.clone(), ends_tx.clone());
                tokio::spawn(async move {
                    let _ = serve(stream, connection, behaviour, requests).await;
                    let _ = ends.send(connection);
                });
            }
        });
        Self { addr, requests, ends }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks?token=hunter2", self.addr)
    }

    /// The next request.
    pub async fn request(&mut self) -> Received {
        self.requests.recv().await.unwrap()
    }

    /// Waits for a connection to end.
    pub async fn end(&mut self) -> usize {
        self.ends.recv().await.unwrap()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    behaviour: Behaviour,
    requests: mpsc::UnboundedSender<Received>,
) -> std::io::Result<()> {
    while let Some((head, body)) = read_request(&mut stream).await? {
        let _ = requests.send(Received { connection, head, body });
        match &behaviour {
            Behaviour::Answer(answer) => stream.write_all(answer.as_bytes()).await?,
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Drip(start) => {
                stream.write_all(start.as_bytes()).await?;
                let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
                loop {
                    tick.tick().await;
                    stream.write_all(b"a").await?;
                }
            }
            Behaviour::Flood(start) => {
                stream.write_all(start.as_bytes()).await?;
                loop {
                    stream.write_all(&[b'a'; 16 * 1024]).await?;
                }
            }
            Behaviour::Repeat(text) => loop {
                stream.write_all(text.as_bytes()).await?;
            },
            Behaviour::Reset(start) => {
                stream.write_all(start.as_bytes()).await?;
                return stream.set_zero_linger();
            }
            Behaviour::Close(start) => return stream.write_all(start.as_bytes()).await,
        }
    }
    Ok(())
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let request = Received { connection: 0, head, body: Vec::new() };
    let mut body = vec![0; request.header("content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut body).await?;
    Ok(Some((request.head, body)))
}

/// A listener that nobody may connect to.
pub struct Canary(std::net::TcpListener);

impl Canary {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// A connection is in the listener's queue as soon as the other side has made it: there is nothing to wait for.
    pub fn was_hit(&self) -> bool {
        match self.0.accept() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }
}
