//! The audit: whatever somebody changes is on record, with who did it and without what is secret.

use hookpost::access::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{App, Backend, Builder, on_both_stores, send};
use crate::receiver::{Receiver, Script};

on_both_stores!(
    who_did_what_to_a_subscription_is_on_record,
    who_made_and_revoked_a_key_is_on_record,
    a_subscription_that_hookpost_disables_is_on_record_as_its_deed,
    one_whose_settings_another_process_has_changed_is_disabled_all_the_same,
    a_tenant_sees_what_was_done_to_its_own,
    what_was_refused_or_made_no_difference_leaves_no_record,
    a_replacement_is_on_record_with_all_that_it_changed,
    two_who_disable_at_the_same_time_leave_one_record,
);

/// Actor and action of all records of an object, oldest first.
async fn deeds(app: &App, object: &str) -> Vec<(String, String)> {
    let records = app.get(&format!("/audit?object={object}")).await.expect(200);
    let text = |record: &Value, field: &str| record[field].as_str().expect("a text").to_owned();
    let records = records.as_array().expect("records").iter().rev();
    records.map(|record| (text(record, "actor"), text(record, "action"))).collect()
}

/// As an actor is named of whom this is the key.
fn actor(key: &str) -> String {
    format!("key/{}", key.split('_').nth(1).expect("a prefix"))
}

async fn who_did_what_to_a_subscription_is_on_record(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let (admin, tenant) = (actor(app.admin_key()), app.key(Role::Tenant, Some("default")).await);
    let id = app.subscribe("https://receiver.example/hook").await;
    let at = |path: &str| format!("/subscriptions/{id}{path}");
    app.ask(&tenant, "PATCH", &at(""), r#"{"secret":"hunter2","max_concurrency":3}"#).await.expect(200);
    app.post(&at("/secret/rotate"), json!({})).await.expect(200);
    app.get(&at("/secret")).await.expect(200);
    app.post(&at("/disable"), json!({"reason": "moving"})).await.expect(200);
    app.post(&at("/enable"), json!({})).await.expect(200);
    app.put(&at(""), json!({"target_url": "https://other.example/hook"})).await.expect(200);
    app.delete(&at("")).await;
    let by = |who: &str, actions: &[&str]| actions.iter().map(|did| (who.to_owned(), (*did).to_owned())).collect();
    let mut expected: Vec<_> = by(&admin, &["created"]);
    expected.extend::<Vec<_>>(by(&actor(&tenant), &["changed"]));
    let rest = ["secret_rotated", "secret_shown", "disabled", "enabled", "changed", "deleted"];
    expected.extend::<Vec<_>>(by(&admin, &rest));
    assert_eq!(deeds(&app, &format!("subscription/{id}")).await, expected);

    let of_tenant = app.get(&format!("/audit?actor={}", actor(&tenant))).await;
    assert!(!of_tenant.text.contains("hunter2"));
    let record = &of_tenant.expect(200)[0];
    assert_eq!((&record["detail"], &record["tenant"]), (&json!("max_concurrency, secret"), &json!("default")));
}

async fn who_made_and_revoked_a_key_is_on_record(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let made = app.post("/keys", json!({"name": "shop", "role": "producer"})).await.expect(201);
    let object = format!("key/{}", made["prefix"].as_str().expect("a prefix"));
    for _ in 0..2 {
        app.delete(&format!("/keys/{}", made["prefix"].as_str().expect("a prefix"))).await;
    }
    let admin = actor(app.admin_key());
    let expected = [(admin.clone(), "key_created".to_owned()), (admin, "key_revoked".to_owned())];
    assert_eq!(deeds(&app, &object).await, expected);
    let all = app.get("/audit").await;
    assert!(!all.text.contains(made["key"].as_str().expect("a key")));
    let all = all.expect(200);
    let first = all.as_array().expect("records").last().expect("the admin's own key");
    assert_eq!((&first["actor"], &first["action"]), (&json!("command_line"), &json!("key_created")));
}

async fn a_subscription_that_hookpost_disables_is_on_record_as_its_deed(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([Script::Status(410)]).await;
    let id = app.subscribe(&receiver.url()).await;
    app.ingest(id, json!({})).await;
    while app.get(&format!("/subscriptions/{id}")).await.expect(200)["disabled"].is_null() {
        tokio::task::yield_now().await;
    }
    let expected = [("anonymous".to_owned(), "created".to_owned()), ("hookpost".to_owned(), "disabled".to_owned())];
    assert_eq!(deeds(&app, &format!("subscription/{id}")).await, expected);
}

async fn one_whose_settings_another_process_has_changed_is_disabled_all_the_same(backend: Backend) {
    let builder = Builder::new(backend).await;
    let home = builder.home();
    let app = builder.start().await;
    let other = Builder::at(home).start().await;
    let mut receiver = Receiver::start([Script::Status(200), Script::Status(410), Script::Status(410)]).await;
    let id = app.subscribe(&receiver.url()).await;
    app.ingest(id, json!({})).await;
    receiver.next().await;
    other.patch(&format!("/subscriptions/{id}"), json!({ "max_concurrency": 4 })).await.expect(200);
    app.ingest(id, json!({})).await;
    while other.get(&format!("/subscriptions/{id}")).await.expect(200)["disabled"].is_null() {
        tokio::task::yield_now().await;
    }
    let shown = other.get(&format!("/subscriptions/{id}")).await.expect(200);
    assert_eq!((&shown["disabled"], &shown["max_concurrency"]), (&json!("gone"), &json!(4)));
}

async fn a_tenant_sees_what_was_done_to_its_own(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let acme = app.key(Role::Tenant, Some("acme")).await;
    for tenant in ["acme", "bolt"] {
        app.post("/subscriptions", json!({"target_url": "https://a.example/", "tenant": tenant})).await.expect(201);
    }
    let seen = app.ask(&acme, "GET", "/audit", "").await.expect(200);
    let tenants: Vec<_> = seen.as_array().expect("records").iter().map(|record| &record["tenant"]).collect();
    assert_eq!(tenants, ["acme", "acme"], "its key, and its subscription: {seen}");
    let foreign = app.ask(&acme, "GET", "/audit?object=subscription/2", "").await.expect(200);
    assert_eq!(foreign, json!([]), "as if there were none");
}

async fn what_was_refused_or_made_no_difference_leaves_no_record(backend: Backend) {
    let app = App::start(backend).await;
    let id = app.subscribe("https://receiver.example/hook").await;
    let at = |path: &str| format!("/subscriptions/{id}{path}");
    app.patch(&at(""), json!({"target_url": 7})).await.expect(400);
    app.post(&at("/enable"), json!({})).await.expect(200);
    for change in [json!({}), json!({"target_url": "https://receiver.example/hook", "max_concurrency": null})] {
        app.patch(&at(""), change.clone()).await.expect(200);
        app.put(&at(""), change).await.expect(200);
    }
    let foreign = app.request(Method::DELETE, &at("")).header("origin", "https://evil.example");
    send(foreign).await.expect(403);
    app.delete("/subscriptions/99").await;
    let all = app.get("/audit").await.expect(200);
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
}

async fn a_replacement_is_on_record_with_all_that_it_changed(backend: Backend) {
    let app = App::start(backend).await;
    let settings = json!({"max_concurrency": 3, "headers": {"x-token": "hunter2"}, "order": "fifo"});
    let id = app.subscribe_with("https://receiver.example/hook", settings).await;
    let at = |path: &str| format!("/subscriptions/{id}{path}");
    app.post(&at("/disable"), json!({})).await.expect(200);
    app.put(&at(""), json!({"target_url": "https://other.example/", "order": "fifo"})).await.expect(200);
    let audit = app.get("/audit?limit=1").await;
    assert!(!audit.text.contains("hunter2"));
    assert_eq!(audit.expect(200)[0]["detail"], "disabled, headers, max_concurrency, target_url");
}

async fn two_who_disable_at_the_same_time_leave_one_record(backend: Backend) {
    let app = App::start(backend).await;
    let id = app.subscribe("https://receiver.example/hook").await;
    let path = format!("/subscriptions/{id}/disable");
    let disable = || app.post(&path, json!({}));
    let answers = tokio::join!(disable(), disable(), disable(), disable());
    for answer in [answers.0, answers.1, answers.2, answers.3] {
        answer.expect(200);
    }
    assert_eq!(deeds(&app, &format!("subscription/{id}")).await.len(), 2, "created, and disabled");
}
