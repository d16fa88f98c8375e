//! What comes in at our own port and is no honest HTTP: smuggled requests, heads without end, foreign pages. Slow peers are
//! in `src/http/server_tests.rs`, where the deadlines are short.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::{App, Backend, on_both_stores, send};
use crate::receiver::PATIENCE;

on_both_stores!(
    a_smuggled_request_is_answered_with_400_and_the_connection_closed,
    a_head_that_is_too_large_is_refused_and_the_connection_closed,
    a_page_of_a_foreign_origin_changes_nothing_on_any_route,
);

async fn raw(app: &App, request: &str) -> String {
    let mut stream = TcpStream::connect(app.addr()).await.expect("it listens");
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it closes in time");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn a_smuggled_request_is_answered_with_400_and_the_connection_closed(backend: Backend) {
    let app = App::start(backend).await;
    let id = app.subscribe("http://127.0.0.1:9/").await;
    let smuggled = format!("DELETE /subscriptions/{id} HTTP/1.1\r\nhost: a\r\n\r\n");
    let length = smuggled.len();
    for head in [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"),
        format!("Content-Length: 0\r\nContent-Length: {length}"),
        "Content-Length: 0\r\nContent-Length: 0".to_owned(),
        "Content-Length: +5".to_owned(),
        "Content-Length: 0x5".to_owned(),
        "Content-Length: -1".to_owned(),
        "Content-Length: 5 5".to_owned(),
        "Content-Length: 0, 0".to_owned(),
        "Content-Length: 18446744073709551616".to_owned(),
        "Content-Length : 0".to_owned(),
        " Content-Length: 0".to_owned(),
        "x: y\r\n Content-Length: 0".to_owned(),
        "Transfer-Encoding: chunked, identity".to_owned(),
        "Transfer-Encoding: xchunked".to_owned(),
        "Transfer-Encoding: \x0bchunked".to_owned(),
        "Transfer-Encoding:\r\n chunked".to_owned(),
        "x: a\rTransfer-Encoding: chunked".to_owned(),
        "x: a\0b".to_owned(),
    ] {
        let answer = raw(&app, &format!("POST /events HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n0\r\n\r\n{smuggled}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
    }
    app.get(&format!("/subscriptions/{id}")).await.expect(200);
}

async fn a_head_that_is_too_large_is_refused_and_the_connection_closed(backend: Backend) {
    let app = App::start(backend).await;
    let (many, long) = ("x: y\r\n".repeat(1000), format!("x: {}\r\n", "y".repeat(1024 * 1024)));
    for headers in [many, long] {
        let answer = raw(&app, &format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let answer = raw(&app, &format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(1024 * 1024))).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    app.get("/livez").await.expect(200);
}

async fn a_page_of_a_foreign_origin_changes_nothing_on_any_route(backend: Backend) {
    let app = App::start(backend).await;
    let id = app.subscribe("http://127.0.0.1:9/").await;
    let before = app.get(&format!("/subscriptions/{id}")).await.expect(200);
    for (method, path) in [
        (Method::POST, "/subscriptions".to_owned()),
        (Method::PUT, format!("/subscriptions/{id}")),
        (Method::PATCH, format!("/subscriptions/{id}")),
        (Method::DELETE, format!("/subscriptions/{id}")),
        (Method::POST, format!("/subscriptions/{id}/disable")),
        (Method::POST, format!("/subscriptions/{id}/enable")),
        (Method::POST, format!("/subscriptions/{id}/secret/rotate")),
        (Method::POST, "/keys".to_owned()),
        (Method::DELETE, "/keys/0123456789".to_owned()),
        (Method::POST, format!("/ingest/{id}")),
        (Method::POST, "/events".to_owned()),
    ] {
        for origin in ["https://evil.example", "null"] {
            // As a form of a page can send it: without asking first.
            let request =
                app.request(method.clone(), &path).header("origin", origin).header("content-type", "text/plain");
            let body = json!({ "target_url": "http://127.0.0.1:9/evil", "event_type": "a", "payload": {} });
            let answer = send(request.body(body.to_string())).await;
            assert!(answer.headers.get("access-control-allow-origin").is_none());
            assert!(answer.expect(403)["type"].as_str().is_some_and(|kind| kind.ends_with("foreign-origin")));
        }
    }
    assert_eq!(app.get(&format!("/subscriptions/{id}")).await.expect(200), before);
    assert_eq!(app.get("/subscriptions").await.expect(200).as_array().map(Vec::len), Some(1));
    assert_eq!(app.get(&format!("/subscriptions/{id}/logs")).await.expect(200), json!([]));
}
