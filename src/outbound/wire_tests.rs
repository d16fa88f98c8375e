//! What goes over the wire, and which connections are used again.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use async_trait::async_trait;
use http::Method;
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use super::super::resolver::ResolveError;
use super::super::test_receiver::{Behaviour, Receiver};
use super::tests::{AMPLE, OK, STARTED_AT, TINY, attempt_at, attempt_with, delivery, error, loopback};
use super::*;

/// Of a receiver at `hooks.example` and 127.0.0.1, made anew in each run. It is its own authority.
static CERTIFIED: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
    LazyLock::new(|| rcgen::generate_simple_self_signed(["hooks.example".to_owned(), "127.0.0.1".to_owned()]).unwrap());

/// The connections on which two attempts, one after the other, came in.
async fn connections(answer: &str) -> [usize; 2] {
    let mut receiver = Receiver::start(Behaviour::Answer(answer.into())).await;
    let client = AttemptClient::new(loopback(), AMPLE);
    for _ in 0..2 {
        let result = attempt_with(&client, &receiver.url(), AMPLE).await;
        assert!(result.succeeded(), "{result:?}");
    }
    [receiver.request().await.connection, receiver.request().await.connection]
}

#[tokio::test]
async fn a_connection_is_used_again_where_the_answer_allows_it() {
    for answer in [
        OK,
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ] {
        assert_eq!(connections(answer).await, [1, 1], "{answer}");
    }
}

#[tokio::test]
async fn a_connection_is_not_used_again_where_the_answer_forbids_it() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        // Bytes that nobody asked for: the next answer would be someone else's.
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokay",
    ] {
        assert_eq!(connections(answer).await, [1, 2], "{answer}");
    }
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_its_connection() {
    for head in ["HTTP/1.0 200 OK\r\n\r\nhello", "HTTP/1.1 200 OK\r\n\r\nhello"] {
        let (result, _) = attempt_at(Behaviour::Close(head), AMPLE).await;
        assert!(result.succeeded() && result.response_body.as_deref() == Some("hello"), "{result:?}");
    }
}

/// Answers one request on each connection, and keeps it until it is told to close it.
async fn closing_when_told() -> (SocketAddr, mpsc::UnboundedReceiver<oneshot::Sender<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (connections, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (close, closing) = oneshot::channel();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
            connections.send(close).unwrap();
            let _ = closing.await;
        }
    });
    (addr, told)
}

#[tokio::test]
async fn a_connection_that_the_receiver_closed_while_it_was_idle_is_not_used() {
    let (addr, mut connections) = closing_when_told().await;
    let elsewhere = Receiver::start(Behaviour::Answer(OK.into())).await;
    let client = AttemptClient::new(loopback(), AMPLE);
    for _ in 0..3 {
        let result = attempt_with(&client, &format!("http://{addr}/"), AMPLE).await;
        assert!(result.succeeded(), "{result:?}");
        connections.recv().await.unwrap().send(()).unwrap();
        // An exchange with someone else: meanwhile the runtime has looked at all of its sockets.
        assert!(attempt_with(&client, &elsewhere.url(), AMPLE).await.succeeded());
    }
}

#[tokio::test]
async fn an_attempt_that_was_cut_off_closes_its_connection() {
    let (result, mut receiver) = attempt_at(Behaviour::Hang, TINY).await;
    assert_eq!(result.class, AttemptClass::Timeout);
    assert_eq!(receiver.request().await.connection, 1);
    let (_, mut receiver) = attempt_at(Behaviour::Drip("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"), TINY).await;
    assert_eq!(receiver.end().await, 1);
}

#[tokio::test]
async fn interim_answers_without_end_do_not_move_the_deadline() {
    let (result, _) = attempt_at(Behaviour::Repeat("HTTP/1.1 100 Continue\r\n\r\n"), TINY).await;
    assert_eq!(error(&result), "timed out after 150 ms before an answer came");
}

#[tokio::test]
async fn a_head_without_end_is_a_failure_that_says_so() {
    let lines: String = (0..101).map(|n| format!("x-{n}: a\r\n")).collect();
    for behaviour in
        [Behaviour::Flood("HTTP/1.1 200 OK\r\nx-long: "), Behaviour::Answer(format!("HTTP/1.1 200 OK\r\n{lines}\r\n"))]
    {
        let (result, receiver) = attempt_at(behaviour.clone(), AMPLE).await;
        let (at, class) = (receiver.addr, result.class);
        let expected = format!("{at} answered with more than 64 KiB or 100 lines of headers");
        assert_eq!((error(&result), class), (expected.as_str(), AttemptClass::NotHttp), "{behaviour:?}");
    }
    let (result, _) = attempt_at(
        Behaviour::Answer(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\
        {}\r\n",
            lines.split_inclusive('\n').take(99).collect::<String>()
        )),
        AMPLE,
    )
    .await;
    assert!(result.succeeded(), "{result:?}");
}

#[tokio::test]
async fn broken_chunks_are_not_http() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    let (result, _) = attempt_at(Behaviour::Answer(answer.into()), AMPLE).await;
    assert!(error(&result).ends_with("answered with something that is not HTTP"), "{}", error(&result));
    assert_eq!((result.class, result.http_status), (AttemptClass::NotHttp, Some(200)));
}

#[tokio::test]
async fn a_large_payload_arrives_whole() {
    let mut receiver = Receiver::start(Behaviour::Answer(OK.into())).await;
    let payload: Bytes = (0..1024 * 1024).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let (target, options) = (Target::new(&receiver.url()), RequestOptions::default());
    let delivery = Delivery { payload: payload.clone(), ..delivery() };
    let request = AttemptRequest {
        span: None,
        target: &target,
        keys: Ok(None),
        options: &options,
        delivery,
        number: 1,
        started_at: STARTED_AT,
        timeout: AMPLE,
    };
    assert!(AttemptClient::new(loopback(), AMPLE).attempt(request).await.succeeded());
    assert_eq!(receiver.request().await.body, payload);
}

#[tokio::test]
async fn custom_headers_are_sent_and_hookposts_own_win() {
    let mut receiver = Receiver::start(Behaviour::answer("405 No", &[], "")).await;
    let headers = [
        ("authorization", "Bearer hunter2"),
        ("content-type", "application/cloudevents+json"),
        ("user-agent", "us"),
        ("webhook-id", "forged"),
        ("host", "forged"),
        ("x-event-type", "forged"),
    ];
    let headers = headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let options = RequestOptions { method: Method::PUT, headers: headers.into_iter().collect() };
    let target = Target::new(&receiver.url());
    let request = AttemptRequest {
        span: None,
        target: &target,
        keys: Ok(None),
        options: &options,
        delivery: delivery(),
        number: 1,
        started_at: STARTED_AT,
        timeout: AMPLE,
    };
    let result = AttemptClient::new(loopback(), AMPLE).attempt(request).await;
    assert!(error(&result).ends_with("the receiver takes no PUT at this URL"), "{}", error(&result));
    let (addr, got) = (receiver.addr.to_string(), receiver.request().await);
    assert!(got.head.starts_with("PUT /hooks?token=hunter2 HTTP/1.1\r\n"), "{}", got.head);
    for (name, value) in [
        ("authorization", "Bearer hunter2"),
        ("content-type", "application/cloudevents+json"),
        ("user-agent", "us"),
        ("webhook-id", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("host", addr.as_str()),
        ("x-event-type", "order.created"),
    ] {
        assert_eq!(got.header(name), Some(value), "{name}");
    }
}

/// Every name is this machine.
struct Here;

#[async_trait]
impl Lookup for Here {
    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Ok(vec!["127.0.0.1".parse().unwrap()])
    }
}

/// A receiver that speaks TLS as `hooks.example` and 127.0.0.1. Tells of each request on which connection it came.
async fn start_tls() -> (SocketAddr, mpsc::UnboundedReceiver<usize>) {
    let key = PrivateKeyDer::try_from(CERTIFIED.signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CERTIFIED.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (requests, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for connection in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            // One that does not like the certificate is gone.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            let requests = requests.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
                    if line == "\r\n" {
                        stream.read_exact(&mut vec![0; delivery().payload.len()]).await.unwrap();
                        stream.write_all(OK.as_bytes()).await.unwrap();
                        stream.flush().await.unwrap();
                        requests.send(connection).unwrap();
                    }
                    line.clear();
                }
            });
        }
    });
    (addr, received)
}

fn trusting_the_receiver() -> AttemptClient {
    let mut roots = RootCertStore::empty();
    roots.add(CERTIFIED.cert.der().clone()).unwrap();
    AttemptClient::with(loopback(), AMPLE, Here, tls::trusting(roots))
}

#[tokio::test]
async fn deliveries_go_over_one_tls_connection_to_a_name_or_an_address() {
    let (addr, mut received) = start_tls().await;
    let client = trusting_the_receiver();
    for (host, connection) in [("hooks.example", 1), ("127.0.0.1", 2)] {
        for _ in 0..3 {
            let result = attempt_with(&client, &format!("https://{host}:{}/hooks", addr.port()), AMPLE).await;
            assert!(result.succeeded(), "{host}: {result:?}");
            assert_eq!(received.recv().await, Some(connection), "{host}");
        }
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_or_of_an_unknown_authority_is_refused() {
    let (addr, _received) = start_tls().await;
    let other_name = format!("https://other.example:{}/hooks", addr.port());
    let result = attempt_with(&trusting_the_receiver(), &other_name, AMPLE).await;
    assert!(error(&result).starts_with("TLS with other.example:"), "{}", error(&result));
    assert_eq!(result.class, AttemptClass::Tls);
    let client = AttemptClient::with(loopback(), AMPLE, Here, tls::trusting(RootCertStore::empty()));
    let result = attempt_with(&client, &format!("https://hooks.example:{}/hooks", addr.port()), AMPLE).await;
    assert!(error(&result).contains("does not lead to an authority"), "{}", error(&result));
}
