//! Just enough HTTP/1.1 for load: messages with a `content-length` over a kept-alive connection. A general client here
//! would cost more than the service under test.

use tokio::io::{AsyncRead, AsyncReadExt};

/// Reads messages one after the other from a connection.
pub struct Reader<R> {
    stream: R,
    buffer: Vec<u8>,
    filled: usize,
    taken: usize,
}

/// Where a message lies in the buffer.
struct Framing {
    head: usize,
    body: usize,
}

/// A message: its head, first line included, and its body.
pub struct Message<'a> {
    pub head: &'a [u8],
    pub body: &'a [u8],
}

impl Message<'_> {
    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0)
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: vec![0; 16 * 1024], filled: 0, taken: 0 }
    }

    /// The next message; `None` when the connection has ended.
    pub async fn next(&mut self) -> std::io::Result<Option<Message<'_>>> {
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        let framing = loop {
            if let Some(framing) = framing(&self.buffer[..self.filled])
                && self.filled >= framing.head + framing.body
            {
                break framing;
            }
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            match self.stream.read(&mut self.buffer[self.filled..]).await? {
                0 => return Ok(None),
                read => self.filled += read,
            }
        };
        let Framing { head, body } = framing;
        self.taken = head + body;
        Ok(Some(Message { head: &self.buffer[..head], body: &self.buffer[head..head + body] }))
    }
}

fn framing(bytes: &[u8]) -> Option<Framing> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let body = bytes[..head]
        .split(|byte| *byte == b'\n')
        .find_map(|line| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:")
                .then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
        })
        .unwrap_or(0);
    Some(Framing { head, body })
}
