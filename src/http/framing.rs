//! Watches HTTP/1 requests as they come in for a length that is named twice. hyper settles that before we see the request:
//! it drops the Content-Length of a chunked one, and the second of two that are equal. A proxy in front of us may have
//! settled it otherwise, and then takes what we read as the next request for a part of this one (smuggling).
//!
//! It changes nothing and refuses nothing; it counts requests as hyper does, and knows which one was ambiguous.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Of a line of the head, as much as is looked at: the longest name, and a length with room for blanks.
const KEPT_BYTES: usize = 64;

/// How a connection begins that speaks HTTP/2; no request of HTTP/1 has this line.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0";

/// Which request of a connection named its length twice, counted from 1; 0 while none has.
#[derive(Debug, Default)]
pub(super) struct Ambiguous(AtomicUsize);

impl Ambiguous {
    /// Whether it was this one. Nothing can follow it.
    pub fn is(&self, request: usize) -> bool {
        self.0.load(Ordering::Relaxed) == request
    }
}

/// A connection whose requests are watched.
pub(super) struct Watched<S> {
    stream: S,
    framing: Framing,
    ambiguous: Arc<Ambiguous>,
}

impl<S> Watched<S> {
    /// `ambiguous` is told before the request that it is about can be read.
    pub fn new(stream: S, ambiguous: Arc<Ambiguous>) -> Self {
        Self { stream, framing: Framing::default(), ambiguous }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(request) = self.framing.read(&buf.filled()[before..]) {
            self.ambiguous.0.store(request, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Where in the requests of a connection we are. Pure: bytes go in, piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    requests: usize,
    at: At,
    line: Line,
}

#[derive(Debug)]
enum At {
    /// In the head of a request, or before it.
    Head(Head),
    /// In a body, with so many bytes to come.
    Body(u64),
    /// Nothing more can be a request of ours: the connection speaks HTTP/2, or the server closes it after this request.
    End,
}

impl Default for At {
    fn default() -> Self {
        Self::Head(Head::default())
    }
}

/// What the lines of a head have said so far.
#[derive(Debug, Default)]
struct Head {
    begun: bool,
    chunked: bool,
    lengths: usize,
    /// `None` for one that is none: hyper refuses the request.
    length: Option<u64>,
}

/// The beginning of the line that is being read.
#[derive(Debug)]
struct Line {
    kept: [u8; KEPT_BYTES],
    bytes: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { kept: [0; KEPT_BYTES], bytes: 0 }
    }
}

impl Framing {
    /// Takes in what was read; the number of the request that names its length twice, if one ends its head in here.
    pub fn read(&mut self, mut bytes: &[u8]) -> Option<usize> {
        while !bytes.is_empty() {
            match &mut self.at {
                At::End => return None,
                At::Body(left) => {
                    let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[skipped..];
                    *left -= skipped as u64;
                    if *left == 0 {
                        self.at = At::default();
                    }
                }
                At::Head(head) => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    self.line.push(&bytes[..end.unwrap_or(bytes.len())]);
                    let end = end?;
                    bytes = &bytes[end + 1..];
                    let head_ended = head.line(&self.line);
                    let http_2 = self.line.text() == HTTP_2;
                    self.line.bytes = 0;
                    if http_2 {
                        self.at = At::End;
                    } else if head_ended && self.end_of_head() {
                        return Some(self.requests);
                    }
                }
            }
        }
        None
    }

    /// Whether the head that has ended is ambiguous.
    fn end_of_head(&mut self) -> bool {
        let At::Head(head) = std::mem::replace(&mut self.at, At::End) else { return false };
        self.requests += 1;
        let ambiguous = head.lengths + usize::from(head.chunked) > 1;
        match head.length {
            // The server answers a chunked request and closes.
            _ if ambiguous || head.chunked => {}
            None if head.lengths == 1 => {}
            None | Some(0) => self.at = At::default(),
            Some(length) => self.at = At::Body(length),
        }
        ambiguous
    }

    /// Requests whose heads have ended.
    pub fn requests(&self) -> usize {
        self.requests
    }
}

impl Head {
    /// Takes in a line; whether it was the empty one that ends the head.
    fn line(&mut self, line: &Line) -> bool {
        let text = line.text();
        if text.is_empty() {
            // Empty lines before a request are skipped.
            return self.begun;
        }
        if std::mem::replace(&mut self.begun, true)
            && let Some(colon) = text.iter().position(|byte| *byte == b':')
        {
            let (name, value) = (&text[..colon], &text[colon + 1..]);
            self.chunked |= name.eq_ignore_ascii_case(b"transfer-encoding");
            if name.eq_ignore_ascii_case(b"content-length") {
                // One that does not fit counts twice: nobody writes such, unless to be read in two ways.
                self.lengths += if line.bytes > KEPT_BYTES { 2 } else { 1 };
                self.length = length(value);
            }
        }
        false
    }
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        let start = self.bytes.min(KEPT_BYTES);
        let kept = bytes.len().min(KEPT_BYTES - start);
        self.kept[start..start + kept].copy_from_slice(&bytes[..kept]);
        self.bytes += bytes.len();
    }

    fn text(&self) -> &[u8] {
        let kept = &self.kept[..self.bytes.min(KEPT_BYTES)];
        kept.strip_suffix(b"\r").unwrap_or(kept)
    }
}

/// As hyper reads it: digits, and blanks around them.
fn length(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first ambiguous request, read in one piece and byte by byte.
    fn ambiguous(text: &str) -> Option<usize> {
        let whole = Framing::default().read(text.as_bytes());
        let mut framing = Framing::default();
        let bytewise = text.as_bytes().chunks(1).find_map(|byte| framing.read(byte));
        assert_eq!(whole, bytewise, "{text:?}");
        whole
    }

    fn post(headers: &str, body: &str) -> String {
        format!("POST /ingest/1 HTTP/1.1\r\nhost: a\r\n{headers}\r\n{body}")
    }

    #[test]
    fn a_length_that_is_named_twice_is_seen_in_every_form() {
        for headers in [
            "content-length: 1\r\ncontent-length: 1\r\n",
            "Content-Length: 1\r\nx: y\r\nCONTENT-LENGTH: 2\r\n",
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length:1\r\n",
            "content-length: 1\ntransfer-encoding: chunked\n",
        ] {
            assert_eq!(ambiguous(&post(headers, "x")), Some(1), "{headers:?}");
        }
        let long = format!("content-length: {}1\r\n", "0".repeat(KEPT_BYTES));
        assert_eq!(ambiguous(&post(&long, "x")), Some(1));
    }

    #[test]
    fn ordinary_requests_are_counted_and_their_bodies_skipped() {
        let inner = "content-length: 1\r\ncontent-length: 1\r\n\r\n";
        let plain = post(&format!("content-length: {}\r\n", inner.len()), inner);
        let mut framing = Framing::default();
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let all = [plain.as_str(), get, "\r\n\r\n", get, &post("content-length: 0\r\n", ""), &plain].concat();
        assert_eq!(framing.read(all.as_bytes()), None);
        assert_eq!(framing.requests(), 5);
        let bad = post("content-length: 1\r\ncontent-length: 1\r\n", "x");
        assert_eq!(framing.read(bad.as_bytes()), Some(6));
    }

    #[test]
    fn behind_a_chunked_body_http_2_or_a_length_that_is_none_nothing_is_looked_at() {
        let bad = post("content-length: 1\r\ncontent-length: 1\r\n", "x");
        for first in [
            post("transfer-encoding: chunked\r\n", "0\r\n\r\n"),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            post("content-length: +1\r\n", "x"),
            post("content-length: 99999999999999999999\r\n", "x"),
        ] {
            assert_eq!(ambiguous(&(first.clone() + &bad)), None, "{first:?}");
        }
    }

    #[test]
    fn a_name_that_only_resembles_names_no_length() {
        let headers = "x-content-length: 1\r\ncontent-length-x: 1\r\ncontent-length: 1\r\nx: content-length: 1\r\n";
        assert_eq!(ambiguous(&post(headers, "x")), None);
    }
}
