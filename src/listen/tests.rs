use clap::Parser;

use super::*;
use crate::delivery::{AttemptResult, Delivery, DeliveryId, SubscriptionId, Timestamp};
use crate::outbound::client::{AttemptClient, AttemptRequest, Target};
use crate::outbound::guard::TargetPolicy;
use crate::outbound::options::RequestOptions;
use crate::outbound::signing::Ed25519Key;

#[derive(Parser)]
#[command(args_override_self = true)]
struct Command {
    #[command(flatten)]
    args: ListenArgs,
}

fn args(flags: &[&str]) -> ListenArgs {
    Command::try_parse_from(["listen", "--port", "0"].iter().chain(flags))
        .unwrap_or_else(|error| panic!("{error}"))
        .args
}

/// What was printed.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Printed {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn json(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

async fn listen(flags: &[&str]) -> (SocketAddr, Printed) {
    let printed = Printed::default();
    let listener = Listener::bind(&args(flags), printed.clone()).await.unwrap();
    let addr = listener.addr();
    tokio::spawn(listener.serve());
    (addr, printed)
}

/// Delivers to it as Hookpost does.
async fn deliver(addr: SocketAddr, secret: Option<&str>, number: u32) -> AttemptResult {
    let keys = secret.map(|secret| SigningKeys::of_secret(&SecretString::from(secret)));
    deliver_signed(addr, keys.as_ref(), number).await
}

async fn deliver_signed(addr: SocketAddr, keys: Option<&SigningKeys>, number: u32) -> AttemptResult {
    let policy = Arc::new(TargetPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]));
    let timeout = Duration::from_secs(10);
    let target = Target::new(&format!("http://{addr}/"));
    let delivery = Delivery {
        trace: None,
        ordering_key: None,
        resend_of: None,
        event_id: None,
        id: DeliveryId::MIN,
        subscription_id: SubscriptionId(1),
        event_type: Some("order.created".into()),
        payload: SAMPLE_EVENT.into(),
    };
    let started_at = Clock::start().wall();
    let (keys, options) = (Ok(keys), &RequestOptions::default());
    let request = AttemptRequest { target: &target, keys, options, delivery, number, span: None, started_at, timeout };
    AttemptClient::new(policy, timeout).attempt(request).await
}

#[tokio::test]
async fn a_delivery_is_answered_200_and_printed_with_both_signatures_verified() {
    let (addr, printed) = listen(&["--secret", "whsec_AAECAwQFBgcICQoLDA0ODw=="]).await;
    assert!(deliver(addr, Some("whsec_AAECAwQFBgcICQoLDA0ODw=="), 2).await.succeeded());
    let text = printed.text();
    assert!(text.contains("  order.created  attempt 2  answered 200\n"), "{text}");
    assert!(text.contains("webhook-signature    verified\n"), "{text}");
    assert!(text.contains("X-Hub-Signature-256  verified\n"), "{text}");
    assert!(text.contains("00000000-0000-0000-0000-000000000000") && text.contains("\"amount\":49.99"), "{text}");
}

#[tokio::test]
async fn signatures_are_told_apart_by_what_is_known_of_them() {
    for (listens, signs, expected) in [
        (Some("a"), Some("a"), "verified"),
        (Some("a"), Some("b"), "bad"),
        (Some("a"), None, "absent"),
        (None, Some("a"), "unverified"),
        (None, None, "absent"),
    ] {
        let mut flags = vec!["--json"];
        flags.extend(listens.into_iter().flat_map(|secret| ["--secret", secret]));
        let (addr, printed) = listen(&flags).await;
        assert!(deliver(addr, signs, 1).await.succeeded());
        let lines = printed.json();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["standard_webhooks"], expected, "{listens:?} {signs:?}");
        assert_eq!(lines[0]["x_hub_signature_256"], expected, "{listens:?} {signs:?}");
        assert_eq!(lines[0]["body"]["order_id"], 123);
    }
}

#[tokio::test]
async fn during_an_overlap_a_delivery_is_verified_with_either_secret_and_with_the_public_key() {
    let key = Ed25519Key::generate();
    let public_key = key.public_key();
    let (new, old) = (SecretString::from("new"), SecretString::from("old"));
    let keys = SigningKeys::new(Some(&new), &[(old, Timestamp::MAX)], Some(key));
    let other = Ed25519Key::generate().public_key();
    for (flags, webhook, hub) in [
        (["--secret", "new"], "verified", "verified"),
        (["--secret", "old"], "verified", "verified"),
        (["--secret", "neither"], "bad", "bad"),
        (["--public-key", public_key.as_str()], "verified", "unverified"),
        (["--public-key", other.as_str()], "bad", "unverified"),
    ] {
        let (addr, printed) = listen(&[&["--json"], &flags[..]].concat()).await;
        assert!(deliver_signed(addr, Some(&keys), 1).await.succeeded());
        let line = &printed.json()[0];
        assert_eq!(
            (&line["standard_webhooks"], &line["x_hub_signature_256"]),
            (&webhook.into(), &hub.into()),
            "{flags:?}"
        );
    }
}

#[tokio::test]
async fn the_first_deliveries_fail_as_asked() {
    let (addr, printed) = listen(&["--fail", "2", "--status", "503", "--json"]).await;
    let mut answers = Vec::new();
    for number in 1..=3 {
        answers.push(deliver(addr, None, number).await.http_status.unwrap());
    }
    assert_eq!(answers, [503, 503, 200]);
    let printed: Vec<_> =
        printed.json().iter().map(|line| (line["attempt"].clone(), line["answered"].clone())).collect();
    assert_eq!(printed, [(1.into(), 503.into()), (2.into(), 503.into()), (3.into(), 200.into())]);
}

#[tokio::test]
async fn a_taken_port_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let Err(error) = Listener::bind(&args(&["--port", &port]), std::io::sink()).await else { panic!("it was bound") };
    assert!(error.to_string().contains("choose another with --port"), "{error}");
}

#[test]
fn the_introduction_signs_its_example_and_quotes_the_secret_for_a_shell() {
    let text = introduction("127.0.0.1:9000".parse().unwrap(), &args(&["--secret", "it's \"one\""]));
    assert!(text.contains(r#""secret":"it'\''s \"one\"""#), "{text}");
    let keys = SigningKeys::of_secret(&SecretString::from("it's \"one\""));
    let signed = keys.hub_signature(SAMPLE_EVENT.as_bytes()).unwrap();
    assert!(text.contains(&format!("-H 'X-Hub-Signature-256: {signed}' -d '{SAMPLE_EVENT}'")), "{text}");
    let text = introduction("127.0.0.1:9000".parse().unwrap(), &args(&[]));
    assert!(text.contains(r#"-d '{"target_url":"http://127.0.0.1:9000/"}'"#) && !text.contains("X-Hub"), "{text}");
}

#[test]
fn flags_out_of_range_are_refused_with_what_is_expected() {
    for flags in [["--status", "99"], ["--fail", "often"], ["--delay", "soon"]] {
        assert!(Command::try_parse_from(["listen"].iter().chain(&flags)).is_err(), "{flags:?}");
    }
}

#[test]
fn the_secret_is_not_shown_by_debug() {
    assert!(!format!("{:?}", args(&["--secret", "hunter2"])).contains("hunter2"));
}
