//! `hookpost healthcheck`: asks a running service whether it is ready. For container images, which have no curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// For connecting, and then for each read. Health checks come every few seconds: a service that needs longer than this
/// on its own machine is not ready.
const TIMEOUT: Duration = Duration::from_secs(2);
/// More than the head of the answer and the few lines that say why.
const MAX_ANSWER_BYTES: u64 = 4096;

/// Whether `/readyz` of the service that listens there answers 200.
pub(super) fn run(listen: SocketAddr) -> anyhow::Result<()> {
    let addr = reachable(listen);
    let answer = ask(addr).with_context(|| format!("no service answers on {addr}"))?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        let reason = answer.split("\r\n\r\n").nth(1).unwrap_or_default().trim();
        bail!("the service on {addr} is not ready: {status} {}", reason.replace(['\r', '\n'], " "));
    }
    Ok(())
}

/// "Every address" is listened on, but cannot be called.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}

fn ask(addr: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A service that gives this answer to one caller; returns what it was asked.
    fn answering(answer: &'static str) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (addr, asked)
    }

    #[test]
    fn a_service_that_is_ready_is_healthy() {
        let (addr, asked) = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        run(addr).unwrap();
        assert!(asked.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
    }

    #[test]
    fn a_service_that_is_not_ready_says_why() {
        let (addr, _) = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\n\r\ndraining");
        let error = run(addr).unwrap_err().to_string();
        assert!(error.ends_with("is not ready: 503 draining"), "{error}");
    }

    #[test]
    fn no_service_is_not_healthy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        assert!(format!("{:#}", run(addr).unwrap_err()).contains(&format!("no service answers on {addr}")));
    }

    #[test]
    fn a_listener_on_every_address_is_called_on_loopback() {
        assert_eq!(reachable("0.0.0.0:80".parse().unwrap()).to_string(), "127.0.0.1:80");
        assert_eq!(reachable("[::]:80".parse().unwrap()).to_string(), "[::1]:80");
        assert_eq!(reachable("10.0.0.1:80".parse().unwrap()).to_string(), "10.0.0.1:80");
    }
}
