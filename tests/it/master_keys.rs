//! Master keys: without one, with the wrong one, and replaced by another.

use hookpost::service::rotate_master;
use reqwest::Method;
use serde_json::json;

use crate::app::{App, Backend, Builder, on_both_stores, send, test_key};
use crate::receiver::Receiver;
use crate::verifiers::crate_accepts;

on_both_stores!(
    without_a_master_key_secrets_are_refused_and_everything_else_works,
    a_store_that_is_sealed_under_a_key_that_is_not_there_is_refused_by_name,
    a_key_under_which_nothing_is_sealed_is_not_missed,
    a_secret_sealed_under_a_key_that_this_process_lacks_is_never_replaced_by_no_signature,
    a_lost_master_key_is_given_up_with_what_is_sealed_under_it_and_nothing_else,
    after_rotate_master_the_old_key_can_go,
    rotate_master_seals_what_was_stored_in_clear_and_the_warning_ends,
    rotate_master_works_beside_a_running_service,
);

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

async fn subscribe(app: &App, receiver: &Receiver) -> i64 {
    let fields = json!({ "target_url": receiver.url(), "secret": SECRET, "ed25519": true });
    app.post("/subscriptions", fields).await.expect(201)["id"].as_i64().expect("an id")
}

/// One that reaches all subscriptions; ingest would have to be signed.
async fn publish(app: &App) {
    app.post("/events", json!({ "event_type": "order.created", "payload": {} })).await.expect(202);
}

async fn without_a_master_key_secrets_are_refused_and_everything_else_works(backend: Backend) {
    let app = Builder::new(backend).await.master_keys(vec![]).not_in_development().start().await;
    let mut receiver = Receiver::start([]).await;
    for fields in [json!({ "secret": SECRET }), json!({ "generate_secret": true }), json!({ "ed25519": true })] {
        let mut fields = fields;
        fields["target_url"] = receiver.url().into();
        let refused = app.post("/subscriptions", fields).await.expect(422);
        let detail = refused["detail"].as_str().expect("a detail");
        assert!(detail.contains("HOOKPOST_MASTER_KEY") && detail.contains("new-master") && detail.contains("--dev"));
    }
    let id = app.subscribe(&receiver.url()).await;
    app.patch(&format!("/subscriptions/{id}"), json!({ "secret": SECRET })).await.expect(422);
    app.put(&format!("/subscriptions/{id}"), json!({ "ed25519": true })).await.expect(422);
    let rotate = app.request(Method::POST, &format!("/subscriptions/{id}/secret/rotate"));
    assert_eq!(send(rotate).await.expect(422)["type"], "/problems/no-master-key");
    app.patch(&format!("/subscriptions/{id}"), json!({ "secret": null, "max_concurrency": 4 })).await.expect(200);
    let delivery = app.ingest(id, json!({})).await;
    assert_eq!(receiver.next().await.id(), delivery);
}

async fn a_store_that_is_sealed_under_a_key_that_is_not_there_is_refused_by_name(backend: Backend) {
    let app = Builder::new(backend).await.master_keys(vec![test_key(1)]).start().await;
    let mut receiver = Receiver::start([]).await;
    subscribe(&app, &receiver).await;
    let home = app.stop().await.home();
    for keys in [vec![], vec![test_key(2)]] {
        let refused = Builder::at(home.clone()).master_keys(keys).refusal().await;
        assert!(refused.contains(test_key(1).id()) && refused.contains("HOOKPOST_MASTER_KEY"), "{refused}");
        assert!(!refused.contains('\n'), "{refused}");
    }
    let app = Builder::at(home).master_keys(vec![test_key(2), test_key(1)]).start().await;
    publish(&app).await;
    assert!(crate_accepts(&receiver.next().await, SECRET));
}

async fn a_key_under_which_nothing_is_sealed_is_not_missed(backend: Backend) {
    let app = Builder::new(backend).await.master_keys(vec![test_key(1)]).start().await;
    let home = app.stop().await.home();
    let app = Builder::at(home.clone()).master_keys(vec![]).not_in_development().start().await;
    app.stop().await;
    let app = Builder::at(home).master_keys(vec![test_key(2)]).start().await;
    let mut receiver = Receiver::start([]).await;
    subscribe(&app, &receiver).await;
    publish(&app).await;
    assert!(crate_accepts(&receiver.next().await, SECRET));
}

/// As when a node was not restarted with the new key before another one began to seal with it.
async fn a_secret_sealed_under_a_key_that_this_process_lacks_is_never_replaced_by_no_signature(backend: Backend) {
    let builder = Builder::new(backend).await.schedule("1h");
    let home = builder.home();
    let old = builder.master_keys(vec![test_key(1)]).start().await;
    let new = Builder::at(home).master_keys(vec![test_key(2), test_key(1)]).start().await;
    let mut receiver = Receiver::start([]).await;
    let id = subscribe(&new, &receiver).await;

    let refused = old.post(&format!("/ingest/{id}"), json!({})).await;
    assert_eq!(refused.headers["retry-after"], "60");
    let refused = refused.expect(503);
    assert_eq!(refused["type"], "/problems/secret-locked");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains(test_key(2).id())), "{refused}");

    let event = old.post("/events", json!({ "event_type": "order.created", "payload": {} })).await.expect(202);
    let delivery = event["deliveries"][0]["delivery_id"].as_str().expect("a delivery");
    let status = old.status_when(delivery, "retrying").await;
    let attempt = &status["attempts"][0];
    assert!(attempt["http_status"].is_null() && attempt["outcome"] == "Failed Attempt", "{status}");
    let details = attempt["error_details"].as_str().expect("details");
    assert!(details.starts_with("not sent") && details.contains(test_key(2).id()), "{details}");
    assert_eq!(receiver.unread().len(), 0);
    old.get(&format!("/subscriptions/{id}/secret")).await.expect(503);
    // A new secret takes the place of one whose key is lost.
    old.patch(&format!("/subscriptions/{id}"), json!({ "secret": SECRET, "ed25519": false })).await.expect(200);
    publish(&old).await;
    assert!(crate_accepts(&receiver.next().await, SECRET));
}

async fn a_lost_master_key_is_given_up_with_what_is_sealed_under_it_and_nothing_else(backend: Backend) {
    let app = Builder::new(backend).await.master_keys(vec![test_key(1)]).start().await;
    let mut receiver = Receiver::start([]).await;
    let lost = subscribe(&app, &receiver).await;
    let builder = app.stop().await.master_keys(vec![test_key(2), test_key(1)]);
    let home = builder.home();
    let app = builder.start().await;
    let (sealed, bare) = (subscribe(&app, &receiver).await, app.subscribe(&receiver.url()).await);
    app.stop().await;

    let lost_key = test_key(1).id().to_owned();
    let at_home = || Builder::at(home.clone()).master_keys(vec![test_key(2)]);
    let refused = at_home().refusal().await;
    assert!(refused.contains(&format!("--give-up {lost_key}")), "{refused}");
    let unknown = rotate_master(&at_home().config(), Some("0a0b0c0d"), &mut |_| {}).await.expect_err("refused");
    assert!(unknown.to_string().contains(&lost_key), "{unknown}");
    let present = rotate_master(&at_home().config(), Some(test_key(2).id()), &mut |_| {}).await.expect_err("refused");
    assert!(present.to_string().contains("not lost"), "{present}");
    let done = rotate_master(&at_home().config(), Some(&lost_key), &mut |_| {}).await.expect("it works");
    assert_eq!((done.given_up, done.count, &done.retired), (1, 0, &vec![lost_key.clone()]));

    let app = at_home().start().await;
    let shown = app.get(&format!("/subscriptions/{lost}")).await.expect(200);
    assert_eq!(
        (&shown["disabled"], &shown["signed"], &shown["ed25519"]),
        (&json!("by_hand"), &json!(false), &json!(false))
    );
    let audit = app.get(&format!("/audit?object=subscription/{lost}")).await.expect(200).to_string();
    assert!(
        audit.contains("command_line") && audit.contains("was given up; give it a new one and enable it"),
        "{audit}"
    );
    let audit = app.get("/audit?object=master_key").await.expect(200).to_string();
    assert!(audit.contains(&format!("{lost_key} given up, and 1 subscriptions disabled")), "{audit}");
    for id in [sealed, bare] {
        assert!(app.get(&format!("/subscriptions/{id}")).await.expect(200)["disabled"].is_null());
    }
    app.get(&format!("/subscriptions/{sealed}/secret")).await.expect(200);
    app.delete(&format!("/subscriptions/{sealed}")).await.expect(204);
    app.delete(&format!("/subscriptions/{bare}")).await.expect(204);
    app.patch(&format!("/subscriptions/{lost}"), json!({ "secret": SECRET })).await.expect(200);
    app.post(&format!("/subscriptions/{lost}/enable"), json!({})).await.expect(200);
    publish(&app).await;
    assert!(crate_accepts(&receiver.next().await, SECRET));
}

async fn after_rotate_master_the_old_key_can_go(backend: Backend) {
    let app = Builder::new(backend).await.master_keys(vec![test_key(1)]).start().await;
    let mut receiver = Receiver::start([]).await;
    let id = subscribe(&app, &receiver).await;
    app.post(&format!("/subscriptions/{id}/secret/rotate"), json!({ "secret": "hunter2" })).await.expect(200);
    app.subscribe(&receiver.url()).await;
    let builder = app.stop().await.master_keys(vec![test_key(2), test_key(1)]);
    let mut heard = Vec::new();
    let resealed = rotate_master(&builder.config(), None, &mut |count| heard.push(count)).await.expect("it works");
    assert_eq!((resealed.count, resealed.retired), (1, vec![test_key(1).id().to_owned()]));
    assert_eq!((heard, resealed.unopened.len()), (vec![1], 0));
    let again = rotate_master(&builder.config(), None, &mut |_| {}).await.expect("it works");
    assert_eq!((again.count, again.retired.len()), (0, 0));

    let app = builder.master_keys(vec![test_key(2)]).start().await;
    let shown = app.get(&format!("/subscriptions/{id}/secret")).await.expect(200);
    assert_eq!((&shown["secret"], &shown["previous_secret"]), (&json!("hunter2"), &json!(SECRET)));
    publish(&app).await;
    let receipts = [receiver.next().await, receiver.next().await];
    let signed = receipts.iter().find(|receipt| !receipt.header("webhook-signature").is_empty()).expect("a signed one");
    assert!(crate_accepts(signed, SECRET), "the previous secret signs, too");
    assert!(signed.header("webhook-signature").contains(" v1a,"));
}

async fn rotate_master_seals_what_was_stored_in_clear_and_the_warning_ends(backend: Backend) {
    let app = Builder::new(backend).await.master_keys(vec![]).start().await;
    let mut receiver = Receiver::start([]).await;
    subscribe(&app, &receiver).await;
    let builder = app.stop().await;
    let stored = |store: Vec<u8>| store.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    assert!(stored(builder.home().dump().await), "in development, without a key");
    let builder = builder.not_in_development().master_keys(vec![test_key(1)]);
    let resealed = rotate_master(&builder.config(), None, &mut |_| {}).await.expect("it works");
    assert_eq!((resealed.count, resealed.retired), (1, vec!["plain".to_owned()]));
    assert!(!stored(builder.home().dump().await), "nor in what SQLite has given free");
    let app = builder.start().await;
    publish(&app).await;
    assert!(crate_accepts(&receiver.next().await, SECRET));
}

async fn rotate_master_works_beside_a_running_service(backend: Backend) {
    let app = Builder::new(backend).await.master_keys(vec![test_key(2), test_key(1)]).start().await;
    let mut receiver = Receiver::start([]).await;
    let id = subscribe(&app, &receiver).await;
    publish(&app).await;
    assert!(crate_accepts(&receiver.next().await, SECRET));
    let mut config = app.config.clone();
    config.master_keys = vec![test_key(3), test_key(2), test_key(1)];
    let resealed = rotate_master(&config, None, &mut |_| {}).await.expect("it works");
    assert_eq!(resealed.count, 1);
    // What runs has derived its keys already, and goes on; what it writes from now on is made from the newer version.
    publish(&app).await;
    assert!(crate_accepts(&receiver.next().await, SECRET));
    app.patch(&format!("/subscriptions/{id}"), json!({ "max_concurrency": 4 })).await.expect(200);
    let builder = app.stop().await.master_keys(vec![test_key(3)]);
    let app = builder.start().await;
    publish(&app).await;
    assert!(crate_accepts(&receiver.next().await, SECRET));
}

#[tokio::test]
async fn rotate_master_without_a_key_says_what_to_set() {
    let builder = Builder::new(Backend::Sqlite).await.master_keys(vec![]);
    let error = rotate_master(&builder.config(), None, &mut |_| {}).await.expect_err("refused");
    assert!(error.to_string().contains("set HOOKPOST_MASTER_KEY"), "{error}");
}
