//! A receiver that writes bytes as it is told, HTTP or not, and says when its connection is gone.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::receiver::PATIENCE;

pub struct Raw {
    pub addr: SocketAddr,
    closed: mpsc::UnboundedReceiver<()>,
    /// Of a body without end, how many bytes somebody took.
    taken: Arc<AtomicUsize>,
}

impl Raw {
    /// Answers the requests of a connection with these, then closes it.
    pub async fn answering(answers: impl Into<VecDeque<&'static str>>) -> Self {
        let answers: VecDeque<_> = answers.into().into_iter().map(str::to_owned).collect();
        Self::serve(answers, Vec::new()).await
    }

    /// Answers one request with this head, and then this piece of a body again and again for ever.
    pub async fn flooding(head: String, piece: Vec<u8>) -> Self {
        Self::serve(VecDeque::from([head]), piece).await
    }

    async fn serve(answers: VecDeque<String>, piece: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (closing, closed) = mpsc::unbounded_channel();
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = taken.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = answer(stream, answers.clone(), &piece, &counted).await;
                let _ = closing.send(());
            }
        });
        Self { addr, closed, taken }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.addr)
    }

    /// Waits until a connection has ended.
    pub async fn closed(&mut self) {
        tokio::time::timeout(PATIENCE, self.closed.recv()).await.expect("it ends in time");
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

async fn answer(
    mut stream: TcpStream,
    answers: VecDeque<String>,
    piece: &[u8],
    taken: &AtomicUsize,
) -> std::io::Result<()> {
    for answer in answers {
        // Deliveries of the tests are small: one piece.
        if stream.read(&mut [0; 4096]).await? == 0 {
            return Ok(());
        }
        stream.write_all(answer.as_bytes()).await?;
    }
    while !piece.is_empty() {
        stream.write_all(piece).await?;
        taken.fetch_add(piece.len(), Ordering::Relaxed);
    }
    Ok(())
}
