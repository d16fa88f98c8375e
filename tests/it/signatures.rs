//! Signatures as receivers see them, verified by libraries that others wrote: v1, v1a, a rotation under way.

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use hookpost::clock::Clock;
use hookpost::delivery::{Delivery, DeliveryId, SubscriptionId, Timestamp};
use hookpost::outbound::client::{AttemptClient, AttemptRequest, Target};
use hookpost::outbound::guard::TargetPolicy;
use hookpost::outbound::options::RequestOptions;
use hookpost::outbound::signing::{Ed25519Key, SigningKeys};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::app::{Answer, App, Backend, Builder, on_both_stores, send};
use crate::receiver::{Receipt, Receiver, Script};
use crate::verifiers::{Knows, ask_python, assert_all_ok, crate_accepts};

on_both_stores!(
    every_attempt_verifies_with_libraries_that_others_wrote,
    secret_rotated_during_retries_both_signatures_verify,
    ingest_accepts_either_secret_during_an_overlap_and_the_new_one_alone_without,
    a_generated_secret_is_shown_once_and_then_only_where_it_is_asked_for,
    a_public_key_comes_and_goes_with_the_field,
    a_changed_secret_takes_effect_at_once,
    two_rotations_at_the_same_time_both_happen,
);

const OLD: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "whsec_Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

fn hub_signature(secret: &str, body: &[u8]) -> String {
    let code = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length").chain_update(body).finalize();
    format!("sha256={}", hex::encode(code.into_bytes()))
}

/// Sends an event, signed with the secret, if there is one.
async fn ingest_signed(app: &App, id: i64, secret: Option<&str>, event: &Value) -> Answer {
    let body = event.to_string();
    let mut request = app.request(Method::POST, &format!("/ingest/{id}"));
    if let Some(secret) = secret {
        request = request.header("X-Hub-Signature-256", hub_signature(secret, body.as_bytes()));
    }
    send(request.body(body)).await
}

/// A subscription with these fields; its id and how it was shown.
async fn subscribe(app: &App, receiver: &Receiver, mut fields: Value) -> (i64, Value) {
    fields["target_url"] = receiver.url().into();
    let created = app.post("/subscriptions", fields).await.expect(201);
    (created["id"].as_i64().expect("an id"), created)
}

async fn every_attempt_verifies_with_libraries_that_others_wrote(backend: Backend) {
    let app = Builder::new(backend).await.schedule("10ms,10ms").start().await;
    let mut receiver = Receiver::start([Script::Status(500), Script::Status(500)]).await;
    let (id, created) = subscribe(&app, &receiver, json!({ "generate_secret": true, "ed25519": true })).await;
    let secret = created["secret"].as_str().expect("a secret");
    let shown = app.get(&format!("/subscriptions/{id}/public-key")).await.expect(200);
    let knows = Knows { secret: Some(secret), public_key: shown["public_key"].as_str() };
    let event = json!({ "name": "h\u{e9}llo \u{2014} \u{2713}", "n": 1 });
    ingest_signed(&app, id, Some(secret), &event).await.expect(202);

    let receipts = [receiver.next().await, receiver.next().await, receiver.next().await];
    assert_all_ok(&ask_python(&receipts.each_ref().map(|receipt| knows.question(receipt))).await);
    assert!(receipts.iter().all(|receipt| crate_accepts(receipt, secret)));
    for receipt in &receipts {
        assert_eq!(receipt.header("x-hub-signature-256"), hub_signature(secret, &receipt.body));
    }

    // What these libraries say would mean nothing if they said it of anything.
    let mut forged = receipts[0].clone();
    forged.body = "{}".into();
    let answers = ask_python(&[knows.question(&forged)]).await;
    assert!(answers[0]["v1"] != "ok" && answers[0]["v1a"] != "ok", "{answers:?}");
    assert!(!crate_accepts(&forged, secret));
}

/// As the service makes it, at a time that the test names.
async fn attempt_at(receiver: &mut Receiver, keys: &SigningKeys, number: u32, started_at: Timestamp) -> Receipt {
    let policy = Arc::new(TargetPolicy::new(vec!["127.0.0.0/8".parse().expect("a range")]));
    let timeout = Duration::from_secs(10);
    let delivery = Delivery {
        trace: None,
        id: DeliveryId::floor_at(Timestamp(1_700_000_000_000)),
        subscription_id: SubscriptionId(1),
        event_type: Some("order.created".into()),
        payload: "{\"n\":1}".into(),
        event_id: None,
        ordering_key: None,
        resend_of: None,
    };
    let (target, options) = (Target::new(&receiver.url()), RequestOptions::default());
    let (target, keys, options) = (&target, Ok(Some(keys)), &options);
    let request = AttemptRequest { target, keys, options, delivery, number, span: None, started_at, timeout };
    AttemptClient::new(policy, timeout).attempt(request).await;
    receiver.next().await
}

/// A receiver believes what is at most five minutes old: what counts is when the attempt was made, not when the delivery
/// was accepted, nor when it was tried first.
#[tokio::test]
async fn a_retry_minutes_later_verifies_at_its_own_time() {
    let mut receiver = Receiver::start([Script::Status(500)]).await;
    let key = Ed25519Key::generate();
    let public_key = key.public_key();
    let keys = SigningKeys::new(Some(&OLD.into()), &[], Some(key));
    let first_at = Clock::start().wall();
    let retry_at = first_at + Duration::from_secs(15 * 60);
    let first = attempt_at(&mut receiver, &keys, 1, first_at).await;
    let retry = attempt_at(&mut receiver, &keys, 2, retry_at).await;
    assert_eq!(first.id(), retry.id());

    let knows = Knows { secret: Some(OLD), public_key: Some(&public_key) };
    let seen_at = |receipt: &Receipt, at: Timestamp| {
        let mut question = knows.question(receipt);
        question["now"] = (at.0 / 1000).into();
        question
    };
    assert_all_ok(&ask_python(&[seen_at(&first, first_at), seen_at(&retry, retry_at)]).await);
    let answers = ask_python(&[seen_at(&first, retry_at), seen_at(&retry, first_at)]).await;
    assert_eq!(
        (&answers[0]["v1"], &answers[1]["v1"]),
        (&json!("Message timestamp too old"), &json!("Message timestamp too new"))
    );
}

async fn secret_rotated_during_retries_both_signatures_verify(backend: Backend) {
    const EVENTS: usize = 20;
    let app = Builder::new(backend).await.schedule(&["300ms"; 30].join(",")).start().await;
    let mut receiver = Receiver::always(Script::Status(400)).await;
    let (id, _) = subscribe(&app, &receiver, json!({ "secret": OLD })).await;
    for n in 0..EVENTS {
        ingest_signed(&app, id, Some(OLD), &json!({ "n": n })).await.expect(202);
    }
    let mut receipts = Vec::new();
    for _ in 0..EVENTS {
        receipts.push(receiver.next().await);
    }
    app.post(&format!("/subscriptions/{id}/secret/rotate"), json!({ "secret": NEW })).await.expect(200);
    let rotated_at = tokio::time::Instant::now();
    let mut retried = std::collections::BTreeSet::new();
    while retried.len() < EVENTS {
        let receipt = receiver.next().await;
        if receipt.at > rotated_at {
            retried.insert(receipt.id().to_owned());
        }
        receipts.push(receipt);
    }

    // Whoever has the old secret notices nothing at any time; whoever has the new one can verify from the answer on. One
    // attempt may have been on its way meanwhile.
    let (before, after): (Vec<_>, Vec<_>) = receipts.iter().partition(|receipt| receipt.at <= rotated_at);
    let signed_before = |receipt: &&&Receipt| receipt.header("x-hub-signature-256-previous").is_empty();
    assert!(after.iter().filter(signed_before).count() <= EVENTS, "{} of {}", after.len(), receipts.len());
    let with_old = before.iter().chain(&after).map(|receipt| Knows::secret(OLD).question(receipt));
    let rotated: Vec<_> = after.iter().filter(|receipt| !signed_before(receipt)).collect();
    let with_new = rotated.iter().map(|receipt| Knows::secret(NEW).question(receipt));
    assert_all_ok(&ask_python(&with_old.chain(with_new).collect::<Vec<_>>()).await);
    assert!(rotated.iter().map(|receipt| receipt.id()).collect::<std::collections::BTreeSet<_>>().len() == EVENTS);
    for receipt in rotated {
        assert_eq!(receipt.header("x-hub-signature-256"), hub_signature(NEW, &receipt.body));
        assert_eq!(receipt.header("x-hub-signature-256-previous"), hub_signature(OLD, &receipt.body));
    }
}

async fn ingest_accepts_either_secret_during_an_overlap_and_the_new_one_alone_without(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let (id, _) = subscribe(&app, &receiver, json!({ "secret": OLD })).await;
    let rotate = format!("/subscriptions/{id}/secret/rotate");
    let answer = app.post(&rotate, json!({ "secret": NEW, "overlap_s": 3600 })).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let answer = answer.expect(200);
    assert!(answer["previous_valid_until"].is_string() && answer.get("secret").is_none(), "{answer}");
    for secret in [OLD, NEW] {
        ingest_signed(&app, id, Some(secret), &json!({})).await.expect(202);
    }
    ingest_signed(&app, id, Some("neither"), &json!({})).await.expect(401);
    ingest_signed(&app, id, None, &json!({})).await.expect(401);

    let made = app.post(&rotate, json!({ "overlap_s": 0 })).await.expect(200);
    assert_eq!(made["previous_valid_until"], Value::Null);
    let made = made["secret"].as_str().expect("a secret");
    ingest_signed(&app, id, Some(made), &json!({})).await.expect(202);
    for secret in [OLD, NEW] {
        ingest_signed(&app, id, Some(secret), &json!({})).await.expect(401);
    }
}

async fn a_generated_secret_is_shown_once_and_then_only_where_it_is_asked_for(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let fields = json!({ "target_url": receiver.url(), "generate_secret": true });
    let created = app.post("/subscriptions", fields).await;
    assert_eq!(created.headers["cache-control"], "no-store");
    let created = created.expect(201);
    let (id, secret) = (&created["id"], created["secret"].as_str().expect("a secret"));
    assert!(secret.starts_with("whsec_") && created["signed"] == true, "{created}");
    let one = format!("/subscriptions/{id}");
    for answer in [app.get(&one).await, app.get("/subscriptions").await, app.patch(&one, json!({})).await] {
        assert!(answer.status == 200 && !answer.text.contains("whsec_"), "{answer:?}");
    }
    let asked = app.get(&format!("{one}/secret")).await;
    assert_eq!(asked.headers["cache-control"], "no-store");
    assert_eq!(asked.expect(200)["secret"], secret);

    let (bare, shown) = subscribe(&app, &receiver, json!({})).await;
    assert!(shown.get("secret").is_none() && shown["signed"] == false, "{shown}");
    app.get(&format!("/subscriptions/{bare}/secret")).await.expect(404);
    app.get("/subscriptions/999/secret").await.expect(404);
    let first = app.request(Method::POST, &format!("/subscriptions/{bare}/secret/rotate"));
    let first = send(first).await.expect(200);
    assert_eq!(first["previous_valid_until"], Value::Null);
    let shown = app.get(&format!("/subscriptions/{bare}/secret")).await.expect(200);
    assert_eq!(shown["secret"], first["secret"]);
    let patched = app.patch(&one, json!({ "generate_secret": true })).await.expect(400);
    assert!(patched.to_string().contains("secret/rotate"), "{patched}");
}

async fn a_public_key_comes_and_goes_with_the_field(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let (id, shown) = subscribe(&app, &receiver, json!({ "ed25519": true })).await;
    assert_eq!((&shown["ed25519"], &shown["signed"]), (&json!(true), &json!(false)));
    let key = format!("/subscriptions/{id}/public-key");
    let public_key = app.get(&key).await.expect(200)["public_key"].as_str().expect("a key").to_owned();
    // Without a secret nothing that is ingested has to be signed, and what is delivered is, all the same.
    app.ingest(id, json!({ "n": 1 })).await;
    let receipt = receiver.next().await;
    assert!(
        receipt.header("webhook-signature").starts_with("v1a,") && receipt.header("x-hub-signature-256").is_empty()
    );
    let knows = Knows { secret: None, public_key: Some(&public_key) };
    assert_all_ok(&ask_python(&[knows.question(&receipt)]).await);

    let one = format!("/subscriptions/{id}");
    app.put(&one, json!({ "target_url": receiver.url() })).await.expect(200);
    app.patch(&one, json!({ "ed25519": true })).await.expect(200);
    assert_eq!(app.get(&key).await.expect(200)["public_key"], public_key.as_str(), "a key that is there stays");
    let without = app.patch(&one, json!({ "ed25519": false })).await.expect(200);
    assert_eq!(without["ed25519"], false);
    let missing = app.get(&key).await.expect(404);
    assert!(missing["detail"].as_str().is_some_and(|detail| detail.contains("\"ed25519\": true")), "{missing}");
    app.ingest(id, json!({ "n": 2 })).await;
    assert!(receiver.next().await.header("webhook-signature").is_empty());
}

async fn a_changed_secret_takes_effect_at_once(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let (id, _) = subscribe(&app, &receiver, json!({ "secret": OLD, "ed25519": true })).await;
    app.put(&format!("/subscriptions/{id}"), json!({ "secret": NEW })).await.expect(200);
    ingest_signed(&app, id, Some(OLD), &json!({})).await.expect(401);
    ingest_signed(&app, id, Some(NEW), &json!({})).await.expect(202);
    let receipt = receiver.next().await;
    let signatures: Vec<_> = receipt.header("webhook-signature").split(' ').collect();
    assert!(signatures.len() == 2 && signatures[1].starts_with("v1a,"), "the key stays: {signatures:?}");
    assert!(crate_accepts(&receipt, NEW) && !crate_accepts(&receipt, OLD));
    let gone = app.patch(&format!("/subscriptions/{id}"), json!({ "secret": null })).await.expect(200);
    assert_eq!(gone["signed"], false);
    ingest_signed(&app, id, None, &json!({})).await.expect(202);
}

async fn two_rotations_at_the_same_time_both_happen(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let (id, _) = subscribe(&app, &receiver, json!({ "secret": "first" })).await;
    let rotate = |secret: &'static str| {
        let request = app.request(Method::POST, &format!("/subscriptions/{id}/secret/rotate"));
        send(request.body(json!({ "secret": secret }).to_string()))
    };
    let (one, other) = tokio::join!(rotate("second"), rotate("third"));
    one.expect(200);
    other.expect(200);
    let shown = app.get(&format!("/subscriptions/{id}/secret")).await.expect(200);
    let mut both = [&shown["secret"], &shown["previous_secret"]].map(|secret| secret.as_str().expect("a secret"));
    both.sort_unstable();
    assert_eq!(both, ["second", "third"]);
}
