use std::net::IpAddr;

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::super::resolver::ResolveError;
use super::super::signing::Verifier;
use super::super::test_receiver::{Behaviour, Canary, Receiver};
use super::*;
use crate::delivery::{DeliveryId, SubscriptionId};

/// Long enough for anything on loopback, whatever else the machine does.
pub(super) const AMPLE: Duration = Duration::from_secs(10);
/// For attempts that must time out.
pub(super) const TINY: Duration = Duration::from_millis(150);

pub(super) const STARTED_AT: Timestamp = Timestamp(1_700_000_000_999);
const BODY: &[u8] = b"{ \"n\": 1e400,\r\n \"x\":\"\xc3\xa9\" }";
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

pub(super) fn loopback() -> Arc<TargetPolicy> {
    Arc::new(TargetPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]))
}

fn public_only() -> Arc<TargetPolicy> {
    Arc::new(TargetPolicy::default())
}

pub(super) fn delivery() -> Delivery {
    Delivery {
        trace: None,
        ordering_key: None,
        resend_of: None,
        event_id: None,
        id: DeliveryId(Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057)),
        subscription_id: SubscriptionId(1),
        event_type: Some("order.created".into()),
        payload: BODY.into(),
    }
}

pub(super) async fn attempt_with(client: &AttemptClient, url: &str, timeout: Duration) -> AttemptResult {
    let target = Target::new(url);
    let request = AttemptRequest {
        span: None,
        target: &target,
        keys: Ok(None),
        options: &RequestOptions::default(),
        delivery: delivery(),
        number: 3,
        started_at: STARTED_AT,
        timeout,
    };
    client.attempt(request).await
}

async fn attempt(url: &str, timeout: Duration) -> AttemptResult {
    attempt_with(&AttemptClient::new(loopback(), AMPLE), url, timeout).await
}

/// An attempt at a receiver that behaves so.
pub(super) async fn attempt_at(behaviour: Behaviour, timeout: Duration) -> (AttemptResult, Receiver) {
    let receiver = Receiver::start(behaviour).await;
    (attempt(&receiver.url(), timeout).await, receiver)
}

pub(super) fn error(result: &AttemptResult) -> &str {
    assert!(!result.succeeded());
    let text = result.error_details.as_deref().unwrap();
    assert!(!text.contains("hunter2") && !text.contains("/hooks"), "the URL leaked: {text}");
    text
}

#[tokio::test]
async fn the_body_arrives_byte_for_byte_with_the_documented_headers() {
    let (result, mut receiver) = attempt_at(Behaviour::Answer(OK.into()), AMPLE).await;
    assert!(result.succeeded(), "{result:?}");
    assert_eq!((result.started_at, result.http_status, result.response_body), (STARTED_AT, Some(200), None));
    let request = receiver.request().await;
    assert_eq!(request.body, BODY);
    assert!(request.head.starts_with("POST /hooks?token=hunter2 HTTP/1.1\r\n"), "{}", request.head);
    let (host, length) = (receiver.addr.to_string(), BODY.len().to_string());
    for (name, value) in [
        ("host", host.as_str()),
        ("content-length", &length),
        ("content-type", "application/json"),
        ("user-agent", concat!("Hookpost/", env!("CARGO_PKG_VERSION"))),
        ("accept", "*/*"),
        ("webhook-id", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("webhook-timestamp", "1700000000"),
        ("x-event-type", "order.created"),
        ("x-hookpost-attempt", "3"),
    ] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    assert_eq!(request.head.lines().count(), 1 + 9 + 1, "other headers were sent: {}", request.head);
}

#[tokio::test]
async fn a_delivery_with_a_secret_carries_both_signatures() {
    let mut receiver = Receiver::start(Behaviour::Answer(OK.into())).await;
    let secret = SecretString::from("It's a secret");
    let (target, keys) = (Target::new(&receiver.url()), SigningKeys::of_secret(&secret));
    let request = AttemptRequest {
        span: None,
        target: &target,
        keys: Ok(Some(&keys)),
        options: &RequestOptions::default(),
        delivery: delivery(),
        number: 1,
        started_at: STARTED_AT,
        timeout: AMPLE,
    };
    assert!(AttemptClient::new(loopback(), AMPLE).attempt(request).await.succeeded());
    let got = receiver.request().await;
    let verifier = Verifier::new(Some(&secret), None);
    assert!(verifier.verify_hub_signature(&got.body, got.header("x-hub-signature-256").unwrap()));
    let [id, timestamp, signature] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| got.header(name).unwrap());
    let message = Message { id, timestamp, body: &got.body };
    assert_eq!(verifier.verify(&message, signature, STARTED_AT, Duration::ZERO), Ok(()));
    assert_eq!(got.header("x-hub-signature-256-previous"), None);
}

#[tokio::test]
async fn nothing_is_sent_unsigned_in_place_of_a_secret_that_does_not_open() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::new(&format!("http://{}/", receiver.local_addr().unwrap()));
    let unopened = Unopened::NoSuchKey("0a1b2c3d".to_owned());
    let request = AttemptRequest {
        span: None,
        target: &target,
        keys: Err(&unopened),
        options: &RequestOptions::default(),
        delivery: delivery(),
        number: 1,
        started_at: STARTED_AT,
        timeout: AMPLE,
    };
    let result = AttemptClient::new(loopback(), AMPLE).attempt(request).await;
    assert_eq!((result.class, result.http_status), (AttemptClass::Local, None));
    let details = result.error_details.unwrap();
    assert!(details.starts_with("not sent") && details.contains("0a1b2c3d"), "{details}");
    let accepted = futures_util::FutureExt::now_or_never(receiver.accept());
    assert!(accepted.is_none(), "there was a connection");
}

#[tokio::test]
async fn the_answers_body_is_kept_and_the_connection_used_again() {
    let mut receiver = Receiver::start(Behaviour::answer("201 Created", &[], "thanks")).await;
    let client = AttemptClient::new(loopback(), AMPLE);
    for _ in 0..3 {
        let result = attempt_with(&client, &receiver.url(), AMPLE).await;
        assert!(result.succeeded());
        assert_eq!(result.response_body.as_deref(), Some("thanks"));
        assert_eq!(receiver.request().await.connection, 1);
    }
}

#[tokio::test]
async fn a_5xx_is_a_failure_that_says_what_was_answered() {
    let (result, _) = attempt_at(Behaviour::answer("500 Oops", &["retry-after: 9"], "no database"), AMPLE).await;
    assert_eq!(error(&result), "answered 500 Internal Server Error");
    assert_eq!(result.class, AttemptClass::Answered);
    assert_eq!((result.http_status, result.retry_after), (Some(500), None));
    assert_eq!(result.response_body.as_deref(), Some("no database"));
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_not_followed() {
    for status in ["301 A", "302 A", "303 A", "307 A", "308 A"] {
        let canary = Canary::start();
        let location = format!("location: http://{}/", canary.addr());
        let (result, _) = attempt_at(Behaviour::answer(status, &[&location], ""), AMPLE).await;
        assert!(error(&result).contains("redirects are not followed"), "{status}");
        assert!(!canary.was_hit(), "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_read_from_429_and_503() {
    let (result, _) = attempt_at(Behaviour::answer("429 Slow", &["Retry-After: 17"], ""), AMPLE).await;
    assert_eq!(error(&result), "answered 429 Too Many Requests");
    assert_eq!(result.retry_after, Some(Duration::from_secs(17)));
    let date = "Retry-After: Tue, 14 Nov 2023 22:13:51 GMT";
    let (result, _) = attempt_at(Behaviour::answer("503 Down", &[date], ""), AMPLE).await;
    assert_eq!(result.retry_after, Some(Duration::from_millis(30_001)));
}

#[tokio::test]
async fn a_refused_connection_says_where_nothing_listens() {
    let addr = Canary::start().addr();
    let result = attempt(&format!("http://{addr}/hooks?token=hunter2"), AMPLE).await;
    assert_eq!(error(&result), format!("connection refused: nothing listens at {addr}"));
    assert_eq!((result.class, result.http_status), (AttemptClass::Connect, None));
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_cut_off_at_the_deadline() {
    let (result, _) = attempt_at(Behaviour::Hang, TINY).await;
    assert_eq!(error(&result), "timed out after 150 ms before an answer came");
    assert!(result.class == AttemptClass::Timeout && result.duration >= TINY);
}

#[tokio::test]
async fn dripping_does_not_move_the_deadline() {
    let (result, _) = attempt_at(Behaviour::Drip("HTTP/1.1 200 OK\r\nx-long: "), TINY).await;
    assert_eq!(error(&result), "timed out after 150 ms before an answer came");
    let (result, _) = attempt_at(Behaviour::Drip("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"), TINY).await;
    assert_eq!(error(&result), "timed out after 150 ms while its answer was read");
    assert_eq!(result.http_status, Some(200));
}

#[tokio::test]
async fn an_endless_answer_is_cut_at_the_cap_and_its_connection_dropped() {
    for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n"] {
        let (result, mut receiver) = attempt_at(Behaviour::Flood(head), AMPLE).await;
        assert!(result.succeeded(), "{result:?}");
        assert_eq!(result.response_body, Some("a".repeat(1024)));
        assert_eq!(receiver.end().await, 1);
    }
}

#[tokio::test]
async fn a_compressed_answer_is_neither_asked_for_nor_unpacked() {
    let packed = "\u{1}\u{2}packed";
    let (result, mut receiver) =
        attempt_at(Behaviour::answer("200 OK", &["content-encoding: gzip"], packed), AMPLE).await;
    assert_eq!(result.response_body.as_deref(), Some("\u{fffd}\u{fffd}packed"));
    assert_eq!(receiver.request().await.header("accept-encoding"), None);
}

#[tokio::test]
async fn a_broken_connection_is_a_failure_that_says_when_it_broke() {
    let (result, receiver) = attempt_at(Behaviour::Reset(""), AMPLE).await;
    assert_eq!(error(&result), format!("{} reset the connection before an answer came", receiver.addr));
    assert_eq!(result.class, AttemptClass::Reset);
    let (result, receiver) = attempt_at(Behaviour::Close(""), AMPLE).await;
    assert_eq!(error(&result), format!("{} closed the connection before an answer came", receiver.addr));
    let (result, receiver) =
        attempt_at(Behaviour::Close("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), AMPLE).await;
    assert_eq!(error(&result), format!("{} closed the connection while its answer was read", receiver.addr));
    assert_eq!((result.class, result.http_status), (AttemptClass::Reset, Some(200)));
}

#[tokio::test]
async fn what_is_not_http_or_not_tls_is_named() {
    let (result, receiver) = attempt_at(Behaviour::Close("220 mail.example ESMTP\r\n"), AMPLE).await;
    assert_eq!(error(&result), format!("{} answered with something that is not HTTP", receiver.addr));
    assert_eq!(result.class, AttemptClass::NotHttp);
    // A plain-text server where TLS is expected.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, OK.as_bytes()).await;
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await;
    });
    let result = attempt(&format!("https://{addr}/hooks"), AMPLE).await;
    assert!(error(&result).starts_with(&format!("TLS with {addr} failed: ")), "{}", error(&result));
    assert_eq!(result.class, AttemptClass::Tls);
}

#[tokio::test]
async fn the_connect_timeout_covers_the_tls_handshake() {
    // The kernel accepts; nobody ever says a word.
    let silent = Canary::start();
    let client = AttemptClient::new(loopback(), TINY);
    let result = attempt_with(&client, &format!("https://{}/hooks", silent.addr()), AMPLE).await;
    assert_eq!(error(&result), format!("could not connect to {} within 150 ms", silent.addr()));
    assert_eq!(result.class, AttemptClass::Connect);
}

#[tokio::test]
async fn a_private_target_is_refused_before_any_connection() {
    let (canary, client) = (Canary::start(), AttemptClient::new(public_only(), AMPLE));
    let port = canary.addr().port();
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "a.localhost"] {
        let result = attempt_with(&client, &format!("http://{host}:{port}/hooks?token=hunter2"), AMPLE).await;
        assert!(error(&result).starts_with("refused: the "), "{host}: {}", error(&result));
        assert_eq!((result.class, result.http_status), (AttemptClass::Refused, None));
        assert!(!canary.was_hit(), "{host}");
    }
}

#[tokio::test]
async fn localhost_is_reached_when_loopback_is_allowed() {
    let receiver = Receiver::start(Behaviour::Answer(OK.into())).await;
    let result = attempt(&format!("http://localhost:{}/", receiver.addr.port()), AMPLE).await;
    assert!(result.succeeded(), "{result:?}");
}

#[tokio::test]
async fn a_url_that_cannot_be_sent_to_is_a_failure_that_says_so() {
    let canary = Canary::start();
    let result = attempt(&format!("http://127.1:{}/", canary.addr().port()), AMPLE).await;
    assert!(error(&result).starts_with("refused: the host 127.1 is another spelling"), "{}", error(&result));
    assert!(!canary.was_hit());
}

/// Name servers that answer the first question with one thing and all others with another.
struct Rebinding {
    answers: std::sync::Mutex<Vec<Result<Vec<IpAddr>, ResolveError>>>,
}

#[async_trait]
impl Lookup for Rebinding {
    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.answers.lock().unwrap().pop().unwrap()
    }
}

#[tokio::test]
async fn every_connect_is_judged_by_the_answer_that_it_dials() {
    let (mut receiver, inside) = (Receiver::start(Behaviour::Close(OK)).await, Canary::start());
    let allowed: IpAddr = "127.0.0.1".parse().unwrap();
    let private: IpAddr = "10.0.0.1".parse().unwrap();
    // In reverse: fails, then allowed, then rebound, then mixed.
    let answers =
        vec![Ok(vec![allowed, private]), Ok(vec![private]), Ok(vec![allowed]), Err(ResolveError::Unavailable)];
    let lookup = Rebinding { answers: std::sync::Mutex::new(answers) };
    let client = AttemptClient::with(loopback(), AMPLE, lookup, tls::config());
    let url = format!("http://hooks.example:{}/hooks?token=hunter2", receiver.addr.port());

    let result = attempt_with(&client, &url, AMPLE).await;
    assert!(error(&result).starts_with("the host name hooks.example could not be resolved"), "{}", error(&result));
    assert_eq!(result.class, AttemptClass::Resolve);
    assert!(attempt_with(&client, &url, AMPLE).await.succeeded());
    // Its connection is gone, so that the next attempt has to resolve the name again.
    receiver.end().await;
    let second = format!("http://hooks.example:{}/hooks?token=hunter2", inside.addr().port());
    for _ in ["rebound", "mixed"] {
        let result = attempt_with(&client, &second, AMPLE).await;
        assert!(error(&result).starts_with("refused: the name hooks.example resolves to"), "{}", error(&result));
        assert!(!error(&result).contains("10.0.0.1"), "{}", error(&result));
    }
    assert!(!inside.was_hit());
}

/// Runs another test of this binary with proxies in its environment.
#[test]
fn proxies_of_the_environment_are_not_used() {
    let canary = Canary::start();
    let proxy = format!("http://{}", canary.addr());
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "outbound::client::tests::the_answers_body_is_kept_and_the_connection_used_again"]);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, &proxy);
    }
    let output = child.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
    assert!(!canary.was_hit());
}
