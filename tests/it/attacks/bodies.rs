//! Bodies that are too much: of requests to us, and of answers to our deliveries. No crash, no more read than the caps say.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::raw::Raw;
use crate::app::{App, Backend, Builder, on_both_stores};
use crate::receiver::{PATIENCE, Receiver};

on_both_stores!(
    json_of_100000_levels_is_refused,
    a_body_one_byte_over_the_limit_is_refused,
    a_length_that_lies_is_refused_and_accepts_nothing,
    a_chunked_body_without_end_is_refused_and_closed,
    an_answer_without_end_is_cut_at_the_cap,
);

const MAX_BODY_BYTES: usize = 1024 * 1024;
/// What the kernel holds on the way between two ends of loopback, at most.
const IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;

const ROUTES: [&str; 3] = ["/ingest/1", "/events", "/subscriptions"];

/// A service with one subscription, to a receiver.
async fn service(backend: Backend) -> (App, Receiver) {
    let (app, receiver) = (App::start(backend).await, Receiver::start([]).await);
    assert_eq!(app.subscribe(&receiver.url()).await, 1);
    (app, receiver)
}

/// Everything that the service says to this, up to its closing of the connection.
async fn raw(app: &App, request: &[u8], end: bool) -> String {
    let mut stream = TcpStream::connect(app.addr()).await.expect("it listens");
    // A service that has heard enough does not read the rest.
    let _ = stream.write_all(request).await;
    if end {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it closes in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Nothing was stored, and everything works.
async fn assert_unharmed(app: &App, mut receiver: Receiver) {
    assert_eq!(app.get("/subscriptions").await.expect(200).as_array().map(Vec::len), Some(1));
    let delivery = app.ingest(1, json!({})).await;
    assert_eq!(receiver.next().await.id(), delivery);
    assert_eq!(receiver.unread().len(), 0);
}

async fn json_of_100000_levels_is_refused(backend: Backend) {
    let (app, receiver) = service(backend).await;
    let levels = 100_000;
    let arrays = "[".repeat(levels) + &"]".repeat(levels);
    let objects = r#"{"a":"#.repeat(levels) + "1" + &"}".repeat(levels);
    for deep in [&arrays, &objects] {
        let event = format!(r#"{{"event_type":"a","payload":{deep}}}"#);
        let subscription = format!(r#"{{"target_url":{deep}}}"#);
        for (path, body) in ROUTES.into_iter().zip([deep, &event, &subscription]) {
            let request = app.request(reqwest::Method::POST, path).body(body.clone());
            crate::app::send(request).await.expect(400);
        }
    }
    assert_unharmed(&app, receiver).await;
}

async fn a_body_one_byte_over_the_limit_is_refused(backend: Backend) {
    let (app, receiver) = service(backend).await;
    for path in ROUTES {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            MAX_BODY_BYTES + 1
        );
        let answer = raw(&app, &[head.as_bytes(), &vec![b' '; MAX_BODY_BYTES + 1]].concat(), false).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
    }
    assert_unharmed(&app, receiver).await;
}

async fn a_length_that_lies_is_refused_and_accepts_nothing(backend: Backend) {
    let (app, receiver) = service(backend).await;
    for path in ROUTES {
        // More than comes.
        let answer =
            raw(&app, format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{{}}").as_bytes(), true)
                .await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
        // Less than comes: the rest is no request.
        let short = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n{{}}");
        let answer = raw(&app, short.as_bytes(), true).await;
        assert_eq!(answer.matches("HTTP/1.1 400").count(), answer.matches("HTTP/1.1 ").count(), "{path}: {answer}");
    }
    assert_unharmed(&app, receiver).await;
}

async fn a_chunked_body_without_end_is_refused_and_closed(backend: Backend) {
    let (app, receiver) = service(backend).await;
    let chunk = [format!("{:x}\r\n", 64 * 1024).as_bytes(), &[b' '; 64 * 1024], b"\r\n"].concat();
    for path in ROUTES {
        let (mut reading, mut writing) = TcpStream::connect(app.addr()).await.expect("it listens").into_split();
        let flood = tokio::spawn({
            let (head, chunk) =
                (format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"), chunk.clone());
            async move {
                let mut written = 0;
                writing.write_all(head.as_bytes()).await.expect("sent");
                while writing.write_all(&chunk).await.is_ok() {
                    written += chunk.len();
                }
                written
            }
        });
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut answer)).await.expect("it closes in time");
        let answer = String::from_utf8_lossy(&answer);
        // A reset may overtake the answer: the service does not read on for ever to be heard.
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
        drop(reading);
        let written = flood.await.expect("it ends");
        assert!(written < 9 * MAX_BODY_BYTES + IN_FLIGHT_BYTES, "{path}: {written} bytes were taken");
    }
    assert_unharmed(&app, receiver).await;
}

async fn an_answer_without_end_is_cut_at_the_cap(backend: Backend) {
    let app = Builder::new(backend).await.schedule("").start().await;
    let chunk = [b"1000\r\n".as_slice(), &[b'.'; 0x1000], b"\r\n"].concat();
    // A deflated block of zeros, were anybody to unpack it.
    let packed = [b"\x1f\x8b\x08\0\0\0\0\0\0\x03".as_slice(), &[0; 0x1000]].concat();
    for (head, piece) in [
        ("content-length: 10000000000", vec![b'.'; 0x1000]),
        ("transfer-encoding: chunked", chunk),
        ("content-encoding: gzip", packed),
    ] {
        let mut receiver = Raw::flooding(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n"), piece).await;
        let id = app.subscribe(&receiver.url()).await;
        let delivery = app.ingest(id, json!({})).await;
        let status = app.status_when(&delivery, "delivered").await;
        let kept = status["attempts"][0]["response_body"].as_str().expect("its beginning").len();
        assert!((1..=1024).contains(&kept), "{head}: {kept} bytes were kept");
        receiver.closed().await;
        assert!(receiver.taken() < IN_FLIGHT_BYTES, "{head}: {} bytes were taken", receiver.taken());
    }
}
