//! One connection to a receiver, driven by the attempt that uses it.
//!
//! hyper gives a connection and a handle to it, meant for two tasks. Here one task polls both, so that an exchange crosses
//! no task boundary, and between two exchanges nobody polls at all.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_rustls::client::TlsStream;

/// Largest head of an answer, and most of its body that is read at once. Servers send a few hundred bytes; hyper also
/// refuses more than 100 header lines.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

type Driver = http1::Connection<TokioIo<Stream>, Full<Bytes>>;

pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    driver: Option<Driver>,
}

impl Connection {
    /// On the heap: it is moved into the pool and out of it for each attempt.
    pub async fn new(stream: Stream) -> hyper::Result<Box<Self>> {
        let handshake = http1::Builder::new().max_buf_size(MAX_BUFFER_BYTES).handshake(TokioIo::new(stream));
        let (sender, driver) = handshake.await?;
        Ok(Box::new(Self { sender, driver: Some(driver) }))
    }

    /// Sends the request and waits for the head of the answer. `None` when the connection ended without a word.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Option<hyper::Result<Response<Incoming>>> {
        // Unconstrained, because out of its budget it would wake the silent waker and be forgotten.
        let mut response = pin!(unconstrained(self.sender.send_request(request)));
        let driver = &mut self.driver;
        poll_fn(|cx| poll_driven(driver, cx, |silent| response.as_mut().poll(silent))).await
    }

    /// The next piece of the answer's body; `None` at its end.
    pub async fn next_piece(&mut self, body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
        while !body.is_end_stream() {
            let next = |silent: &mut Context<'_>| Pin::new(&mut *body).poll_frame(silent);
            let mut next = next;
            match poll_fn(|cx| poll_driven(&mut self.driver, cx, &mut next)).await.flatten()? {
                // Trailers say nothing to us.
                Ok(frame) => match frame.into_data() {
                    Ok(piece) => return Some(Ok(piece)),
                    Err(_) => continue,
                },
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    /// Whether it can take another request: the last exchange has ended, the receiver keeps the connection open, and has
    /// sent nothing that it was not asked for. Looks at the socket, and forgets the waker of the attempt that had it.
    pub fn is_reusable(&mut self) -> bool {
        let Some(driver) = &mut self.driver else { return false };
        let mut silent = Context::from_waker(Waker::noop());
        // Unconstrained: an attempt out of its budget would not look.
        match pin!(unconstrained(driver)).poll(&mut silent) {
            Poll::Ready(_) => {
                self.driver = None;
                false
            }
            Poll::Pending => self.sender.is_ready(),
        }
    }
}

/// Lets the connection get on, and asks for what may have come of it. Only the connection can bring it, in this very
/// poll, so whoever waits for it gets a silent waker: the task would only be woken a second time.
fn poll_driven<T>(
    driver: &mut Option<Driver>,
    cx: &mut Context<'_>,
    mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<Option<T>> {
    let mut silent = Context::from_waker(Waker::noop());
    if let Poll::Ready(found) = wanted(&mut silent) {
        return Poll::Ready(Some(found));
    }
    // Its error has been told to whoever waits; one that nobody waits for is the next attempt's, which will not take it.
    if driver.as_mut().is_some_and(|driver| Pin::new(driver).poll(cx).is_ready()) {
        *driver = None;
    }
    match wanted(&mut silent) {
        Poll::Ready(found) => Poll::Ready(Some(found)),
        Poll::Pending if driver.is_none() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    }
}

/// What the bytes go through.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// In a simulation.
    Piped(DuplexStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Piped(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Piped(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Piped(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Piped(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Piped(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Piped(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
