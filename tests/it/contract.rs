//! The document as a contract, read by a client that others wrote: `schemathesis` makes calls out of it, valid and not,
//! and compares every answer with it (tests/contract).

use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::app::{App, Backend, Builder, on_both_stores};
use crate::receiver::Receiver;

on_both_stores!(what_the_document_allows_is_taken_and_every_answer_is_documented);

/// A run takes about 20 s.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the client needs to know of what is there.
async fn variables(app: &App, target_url: &str) -> Vec<(&'static str, String)> {
    let kept = app.subscribe(target_url).await;
    let changed = app.subscribe_with(target_url, json!({ "ed25519": true })).await;
    let event = app.post("/events", json!({ "event_type": "order.created", "payload": {} })).await.expect(202);
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let from = json!({ "from": "2020-01-01T00:00:00Z" });
    let replay = app.post(&format!("/subscriptions/{kept}/replay"), from).await.expect(202);
    let key = app.post("/keys", json!({ "name": "test", "role": "reader" })).await.expect(201);
    vec![
        ("CONTRACT_KEY", app.admin_key().to_owned()),
        ("CONTRACT_KEPT", kept.to_string()),
        ("CONTRACT_CHANGED", changed.to_string()),
        ("CONTRACT_EVENT", text(&event["event_id"])),
        ("CONTRACT_DELIVERY", text(&event["deliveries"][0]["delivery_id"])),
        ("CONTRACT_REPLAY", replay["replay_id"].to_string()),
        ("CONTRACT_PREFIX", text(&key["prefix"])),
    ]
}

async fn what_the_document_allows_is_taken_and_every_answer_is_documented(backend: Backend) {
    let nobody = Receiver::reserve().await.local_addr().expect("an address");
    // Names of targets are made up: nobody is asked for them.
    let builder = Builder::new(backend).await.with_keys().await.configure(|config| config.dns_servers = vec![nobody]);
    let app = builder.start().await;
    let receiver = Receiver::start([]).await;
    let root = env!("CARGO_MANIFEST_DIR");
    // It leaves notes where it runs.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let run = Command::new(format!("{root}/target/verifiers/bin/st"))
        .args(["--no-color", "--config-file", &format!("{root}/tests/contract/schemathesis.toml")])
        .args(["run", &app.url("/openapi.json")])
        .args(["--phases", "examples,coverage,fuzzing,stateful", "--seed", "6", "--max-examples", "5"])
        .env("CONTRACT_HOOKS", format!("{root}/tests/contract/hooks.py"))
        .envs(variables(&app, &receiver.url()).await)
        .current_dir(dir.path())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await.expect("it ends in time");
    let output = output.expect("tests/prerequisites.sh makes target/verifiers");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // Or it would be no proof: it may find nothing to call.
    let made = said.lines().find_map(|line| line.trim().split_once(" generated, "));
    let made: u32 = made.expect("it says how many").0.parse().expect("a number");
    // Nor to follow.
    let followed = said.lines().find_map(|line| line.trim().strip_prefix("API Links:")?.trim().split_once(" covered"));
    let followed: u32 = followed.expect("it says how many").0.parse().expect("a number");
    assert!(made > 1000 && said.contains("Coverage") && followed > 20, "{said}");
    assert!(app.get("/subscriptions").await.status == 200, "the key is good still");
}
