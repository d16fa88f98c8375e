//! `hookpost doctor` beside a running service, on both stores: it sees what is there, and changes nothing.

use std::collections::BTreeMap;

use hookpost::config::{Auth, Config, Resolved};
use hookpost::doctor::{Finding, Verdict, examine};
use serde_json::json;

use crate::app::{Backend, Builder, on_both_stores, test_key, test_url};

on_both_stores!(it_sees_the_owner_the_schema_and_the_keys, it_finds_a_missing_master_key_and_an_unmigrated_store);

/// What is found, by check.
async fn findings(config: Config) -> BTreeMap<&'static str, Finding> {
    let found = examine(&Ok(Resolved { config, settings: Vec::new() })).await;
    found.into_iter().map(|finding| (finding.check, finding)).collect()
}

#[track_caller]
fn finds(found: &BTreeMap<&'static str, Finding>, check: &str, verdict: Verdict, words: &str) {
    let finding = found.get(check).unwrap_or_else(|| panic!("{check} in {found:#?}"));
    let said = format!("{} {}", finding.found, finding.todo.as_deref().unwrap_or_default());
    assert!(finding.verdict == verdict && said.contains(words), "{check}: {finding:?}");
}

async fn it_sees_the_owner_the_schema_and_the_keys(backend: Backend) {
    use Verdict::Ok;
    let builder = Builder::new(backend).await.redis(&test_url("TEST_REDIS_URL")).with_keys().await;
    let app = builder.start().await;
    let found = findings(app.config.clone()).await;
    let product = if app.config.database_url.is_some() { "PostgreSQL" } else { "SQLite" };
    for (check, words) in [
        ("store", product),
        ("schema", "up to date"),
        ("store writes", "taken back"),
        ("store owner", "delivers from it"),
        ("clock", ""),
        ("master key", "encrypts"),
        ("API keys", "an admin's"),
        ("redis", "Redis"),
        ("exposure", "asked for an API key"),
    ] {
        finds(&found, check, Ok, words);
    }
    if app.config.database_url.is_some() {
        finds(&found, "connections", Ok, "connections of at most");
        finds(&found, "store owner", Ok, "hookpost at 127.0.0.1");
        let rows = String::from_utf8_lossy(&app.home.dump().await).into_owned();
        assert!(!rows.lines().any(|row| row.starts_with("(-1,")), "the row was taken back");
    }
    let config = app.config.clone();
    // With its home, which is removed when nobody has it any more.
    let _stopped = app.stop().await;
    finds(&findings(config).await, "store owner", Ok, "nobody delivers");
}

async fn it_finds_a_missing_master_key_and_an_unmigrated_store(backend: Backend) {
    let builder = Builder::new(backend).await;
    let config = builder.config();
    if config.database_url.is_some() {
        let found = findings(Config { auth: Auth::Keys, ..config }).await;
        finds(&found, "schema", Verdict::Warn, "hookpost migrate");
        finds(&found, "API keys", Verdict::Fail, "hookpost keys create --admin");
    }
    let app = builder.start().await;
    app.post("/subscriptions", json!({ "target_url": "https://receiver.example/", "secret": "s" })).await.expect(201);
    let config = Config { master_keys: vec![test_key(2)], auth: Auth::Keys, ..app.config.clone() };
    let found = findings(config).await;
    finds(&found, "master key", Verdict::Fail, "sealed under the master key");
    finds(&found, "API keys", Verdict::Fail, "hookpost keys create --admin");
}
