//! Finding deliveries, sending one again, and replaying a range of time.

use std::collections::BTreeSet;

use hookpost::access::Role;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::app::{Answer, App, Backend, Builder, Home, client, on_both_stores, send};
use crate::process::Process;
use crate::receiver::{PATIENCE, Receiver, Script};

on_both_stores!(
    a_delivery_is_sent_again_with_the_webhook_id_of_the_first,
    a_resend_under_a_key_is_made_once,
    a_resend_that_cannot_be_says_why,
    deliveries_are_found_by_what_they_are_and_page_by_page,
    a_confined_caller_finds_only_what_is_its_tenants,
    a_replay_sends_again_what_has_failed_in_its_range_and_nothing_else,
    a_replay_waits_for_room_leaves_some_to_new_events_and_can_be_stopped,
    a_replay_waits_while_its_subscription_is_disabled,
    a_replay_ends_with_its_subscription,
    killed_in_the_middle_of_a_replay_it_leaves_nothing_out_and_makes_nothing_twice,
);

/// Long before anything that a test does.
const LONG_AGO: &str = "2020-01-01T00:00:00Z";

/// A receiver that refuses the first events for good: nothing is retried, and no breaker opens.
async fn refusing(count: usize, then: impl IntoIterator<Item = Script>) -> Receiver {
    Receiver::start(vec![Script::Status(400); count].into_iter().chain(then)).await
}

/// One attempt, and no other.
fn once() -> Value {
    json!({ "retry_schedule_s": [] })
}

fn kind(answer: &Answer) -> String {
    answer.json()["type"].as_str().expect("a problem").trim_start_matches("/problems/").to_owned()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// So many events that have failed; their deliveries.
async fn fail(app: &App, subscription: i64, count: usize) -> BTreeSet<String> {
    let mut failed = BTreeSet::new();
    for n in 0..count {
        failed.insert(app.ingest(subscription, json!({ "n": n })).await);
    }
    for delivery in &failed {
        app.status_when(delivery, "failed").await;
    }
    failed
}

/// All rows that a search finds, over as many pages as it takes.
async fn found(app: &App, key: Option<&str>, query: &str) -> Vec<Value> {
    let (mut rows, mut path) = (Vec::new(), format!("/deliveries?{query}"));
    loop {
        let answer = match key {
            Some(key) => app.ask(key, "GET", &path, "").await,
            None => app.get(&path).await,
        };
        let link = answer.headers.get("link").map(|link| link.to_str().expect("text").to_owned());
        let page = answer.expect(200);
        rows.extend(page["deliveries"].as_array().expect("a list").clone());
        let Some(next) = page["next"].as_str() else {
            assert!(link.is_none() && page["searched_to"].is_null(), "{page}");
            return rows;
        };
        assert_eq!(link, Some(format!("<{next}>; rel=\"next\"")));
        assert!(page["searched_to"].is_string(), "{page}");
        path = next.to_owned();
    }
}

fn ids(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| text(&row["delivery_id"])).collect()
}

/// The replay once it is like this.
async fn replay_when(app: &App, id: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let replay = app.get(&format!("/replays/{id}")).await.expect(200);
        if wanted(&replay) {
            return replay;
        }
        assert!(Instant::now() < deadline, "{replay}");
        tokio::task::yield_now().await;
    }
}

async fn replay(app: &App, subscription: i64, body: Value) -> Value {
    let asked = app.post(&format!("/subscriptions/{subscription}/replay"), body).await;
    let location = asked.headers["location"].to_str().expect("text").to_owned();
    let replay = asked.expect(202);
    assert_eq!((location, &replay["state"]), (text(&replay["status_url"]), &json!("running")));
    replay["replay_id"].clone()
}

async fn a_delivery_is_sent_again_with_the_webhook_id_of_the_first(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = refusing(1, []).await;
    let id = app.subscribe_with(&receiver.url(), once()).await;
    let first = app.ingest(id, json!({ "n": 1 })).await;
    app.status_when(&first, "failed").await;
    let sent = receiver.next().await;
    let (mut made, mut resends) = (first.clone(), Vec::new());
    for _ in 0..2 {
        // The second time it is the resend that is sent again.
        let resent = app.post(&format!("/deliveries/{made}/resend"), json!({})).await.expect(202);
        made = text(&resent["delivery_id"]);
        resends.insert(0, made.clone());
        assert_eq!((&resent["resend_of"], &resent["subscription_id"]), (&json!(first), &json!(id)));
        let again = receiver.next().await;
        assert_eq!((again.id(), &again.body), (&*first, &sent.body));
        let status = app.status_when(&made, "delivered").await;
        assert_eq!((&status["resend_of"], &status["attempts"][0]["attempt_number"]), (&json!(first), &json!(1)));
    }
    let status = app.status(&first).await;
    assert_eq!((&status["resend_of"], &status["resends"]), (&json!(null), &json!(resends)));
    assert_eq!(status["state"], "failed", "what the first came to stays on record");
    let explained = app.get(&format!("/deliveries/{first}/explain")).await.expect(200);
    let last = format!("It was sent again, last as {made}.");
    assert!(explained["explanation"].as_str().is_some_and(|text| text.ends_with(&last)), "{explained}");
    let audit = app.get(&format!("/audit?object=subscription/{id}")).await.expect(200);
    assert_eq!((&audit[0]["action"], &audit[1]["detail"]), (&json!("resent"), &json!(format!("delivery {first}"))));
}

async fn a_resend_under_a_key_is_made_once(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let id = app.subscribe(&receiver.url()).await;
    let first = app.ingest(id, json!({})).await;
    receiver.next().await;
    let again = || app.request(Method::POST, &format!("/deliveries/{first}/resend")).header("idempotency-key", "k");
    let (one, other) = (send(again()).await, send(again()).await);
    assert_eq!(other.headers["idempotency-replayed"], "true");
    let (one, other) = (one.expect(202), other.expect(202));
    assert_eq!(one, other);
    app.status_when(&text(&one["delivery_id"]), "delivered").await;
    receiver.next().await;
    assert_eq!((found(&app, None, "").await.len(), receiver.unread().len()), (2, 0));
}

async fn a_resend_that_cannot_be_says_why(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::always(Script::Hang).await;
    let id = app.subscribe_with(&receiver.url(), json!({ "max_backlog": 1 })).await;
    let delivery = app.ingest(id, json!({})).await;
    // Its actor has started: before, nobody knows that the backlog is full.
    receiver.next().await;
    let resend = async || app.post(&format!("/deliveries/{delivery}/resend"), json!({})).await;
    let refused = resend().await;
    assert_eq!((refused.status.as_u16(), &*kind(&refused)), (429, "backlog-full"));
    app.post(&format!("/subscriptions/{id}/disable"), json!({})).await.expect(200);
    let refused = resend().await;
    assert_eq!((refused.status.as_u16(), &*kind(&refused)), (409, "subscription-disabled"));
    let refused = app.post(&format!("/subscriptions/{id}/replay"), json!({ "from": LONG_AGO })).await;
    assert_eq!((refused.status.as_u16(), &*kind(&refused)), (409, "subscription-disabled"));
    app.delete(&format!("/subscriptions/{id}")).await.expect(204);
    let refused = resend().await;
    assert_eq!((refused.status.as_u16(), &*kind(&refused)), (409, "subscription-deleted"));
    let unknown = app.post("/deliveries/01890a5d-ac96-774b-bcce-b302099a8057/resend", json!({})).await;
    assert_eq!((unknown.status.as_u16(), &*kind(&unknown)), (404, "delivery-not-found"));
    let cancelled = found(&app, None, "state=cancelled").await;
    assert_eq!(ids(&cancelled), [delivery], "none of them has left anything");
}

async fn deliveries_are_found_by_what_they_are_and_page_by_page(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = refusing(2, []).await;
    let id = app.subscribe_with(&receiver.url(), once()).await;
    let failed = fail(&app, id, 2).await;
    let typed = app.request(Method::POST, &format!("/ingest/{id}")).header("event_type", "order.created");
    let typed = text(&send(typed.body("{}")).await.expect(202)["delivery_id"]);
    app.status_when(&typed, "delivered").await;
    let dead = Receiver::always(Script::Status(500)).await;
    let other = app.subscribe(&dead.url()).await;
    let retried = app.ingest(other, json!({})).await;
    app.status_when(&retried, "retrying").await;
    let mut all: Vec<_> = failed.iter().chain([&typed, &retried]).cloned().collect();
    all.sort_unstable_by(|one, other| other.cmp(one));
    for limit in [1, 2, 50] {
        assert_eq!(ids(&found(&app, None, &format!("limit={limit}")).await), all, "newest first");
        let found = found(&app, None, &format!("limit={limit}&state=failed")).await;
        assert_eq!(ids(&found).into_iter().collect::<BTreeSet<_>>(), failed);
    }
    let rows = found(&app, None, &format!("state=retrying&subscription_id={other}")).await;
    assert_eq!((ids(&rows), rows[0]["next_attempt_at"].is_string()), (vec![retried], true));
    assert_eq!(ids(&found(&app, None, "event_type=order.created").await), std::slice::from_ref(&typed));
    assert!(found(&app, None, &format!("to={LONG_AGO}")).await.is_empty());
    let accepted_at = text(&app.status(&typed).await["accepted_at"]);
    let from = found(&app, None, &format!("from={accepted_at}&subscription_id={id}")).await;
    assert!(ids(&from).contains(&typed));
    let before = found(&app, None, &format!("to={accepted_at}")).await;
    assert!(!ids(&before).contains(&typed));
    for query in ["state=done", "from=yesterday", "cursor=7", "limit=501", "colour=red"] {
        let refused = app.get(&format!("/deliveries?{query}")).await;
        assert_eq!((refused.status.as_u16(), &*kind(&refused)), (400, "invalid-parameter"), "{query}");
    }
}

async fn a_confined_caller_finds_only_what_is_its_tenants(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let receiver = Receiver::start([]).await;
    let mut made = Vec::new();
    for tenant in ["acme", "bolt", "acme"] {
        let body = json!({ "target_url": receiver.url(), "tenant": tenant });
        let id = app.post("/subscriptions", body).await.expect(201)["id"].as_i64().expect("an id");
        let delivery = app.ingest(id, json!({})).await;
        app.status_when(&delivery, "delivered").await;
        made.push((id, delivery));
    }
    let key = app.key(Role::Reader, Some("acme")).await;
    for query in ["", "state=delivered", "limit=1"] {
        assert_eq!(ids(&found(&app, Some(&key), query).await), [made[2].1.clone(), made[0].1.clone()], "{query}");
    }
    let foreign = format!("/deliveries?subscription_id={}", made[1].0);
    let answer = app.ask(&key, "GET", &foreign, "").await;
    let missing = app.ask(&key, "GET", "/deliveries?subscription_id=404", "").await;
    assert_eq!(answer.text, missing.text, "another tenant's is as one that never was");
    app.delete(&format!("/subscriptions/{}", made[0].0)).await.expect(204);
    let of_deleted = found(&app, Some(&key), &format!("subscription_id={}", made[0].0)).await;
    assert_eq!(ids(&of_deleted), [made[0].1.clone()], "what a deleted one has left is still its tenant's");
}

async fn a_replay_sends_again_what_has_failed_in_its_range_and_nothing_else(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = refusing(5, []).await;
    let id = app.subscribe_with(&receiver.url(), once()).await;
    let failed = fail(&app, id, 5).await;
    let received = app.ingest(id, json!({})).await;
    app.status_when(&received, "delivered").await;
    for _ in 0..6 {
        receiver.next().await;
    }
    let asked = replay(&app, id, json!({ "from": LONG_AGO })).await;
    let done = replay_when(&app, &asked, |replay| replay["state"] != "running").await;
    assert_eq!((&done["state"], &done["progress"]), (&json!("done"), &json!(1.0)));
    assert_eq!((&done["matched"], &done["resent"], &done["states"]), (&json!(5), &json!(5), &json!(["failed"])));
    let mut sent_again = BTreeSet::new();
    for _ in 0..5 {
        sent_again.insert(receiver.next().await.id().to_owned());
    }
    assert_eq!(sent_again, failed, "each once, under the webhook-id of the first");

    // Nothing of it before it began, and its own resends are not sent again by the next.
    let early = replay(&app, id, json!({ "from": LONG_AGO, "to": "2020-01-02T00:00:00Z" })).await;
    let early = replay_when(&app, &early, |replay| replay["state"] == "done").await;
    assert_eq!(early["matched"], 0);
    let all = replay(&app, id, json!({ "from": LONG_AGO, "states": ["failed", "delivered"] })).await;
    let all = replay_when(&app, &all, |replay| replay["state"] == "done").await;
    assert_eq!((&all["matched"], &all["resent"]), (&json!(6), &json!(6)));
    let listed = app.get(&format!("/subscriptions/{id}/replays?limit=2")).await;
    assert!(listed.headers["link"].to_str().expect("text").contains("/replays?limit=2&before="), "{listed:?}");
    assert_eq!(listed.expect(200)[0], all);
    let audit = app.get(&format!("/audit?object=subscription/{id}")).await.expect(200);
    assert_eq!(audit[0]["action"], "replayed");
    assert!(text(&audit[0]["detail"]).contains("delivered,failed from 2020-01-01"), "{audit}");
}

async fn a_replay_waits_for_room_leaves_some_to_new_events_and_can_be_stopped(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = refusing(6, vec![Script::OnceTold; 100]).await;
    let id = app.subscribe_with(&receiver.url(), json!({ "retry_schedule_s": [], "max_backlog": 6 })).await;
    fail(&app, id, 6).await;
    for _ in 0..6 {
        receiver.next().await;
    }
    let asked = replay(&app, id, json!({ "from": LONG_AGO })).await;
    replay_when(&app, &asked, |replay| replay["resent"] == 3).await;
    for _ in 0..3 {
        receiver.next().await;
    }
    // Half of the backlog is not its own: a new event is accepted.
    app.ingest(id, json!({ "new": true })).await;
    receiver.next().await;
    let again = app.post(&format!("/subscriptions/{id}/replay"), json!({ "from": LONG_AGO })).await;
    assert_eq!((again.status.as_u16(), &*kind(&again)), (409, "replay-running"));
    // Two end, and there is room for one more.
    receiver.tell();
    receiver.tell();
    let going_on = replay_when(&app, &asked, |replay| replay["resent"] == 4).await;
    assert_eq!(going_on["state"], "running");
    for _ in 0..2 {
        let cancelled = app.post(&format!("/replays/{asked}/cancel"), json!({})).await.expect(200);
        assert_eq!((&cancelled["state"], &cancelled["detail"]), (&json!("cancelled"), &json!("cancelled by hand")));
    }
    receiver.answer_from_now_on();
    (0..100).for_each(|_| receiver.tell());
    for row in found(&app, None, &format!("subscription_id={id}")).await {
        let first = row["resend_of"].is_null() && row["state"] == "failed";
        if !first {
            app.status_when(&text(&row["delivery_id"]), "delivered").await;
        }
    }
    let resends = found(&app, None, &format!("subscription_id={id}")).await;
    let resends = resends.iter().filter(|row| row["resend_of"].is_string()).count();
    let ended = app.get(&format!("/replays/{asked}")).await.expect(200);
    assert_eq!((&ended["resent"], resends), (&json!(4), 4), "it has stopped, and what it had made is delivered");
    let audit = app.get(&format!("/audit?object=subscription/{id}")).await.expect(200);
    let stops = audit.as_array().expect("records").iter().filter(|record| record["action"] == "replay_cancelled");
    assert_eq!(stops.count(), 1);
}

async fn a_replay_waits_while_its_subscription_is_disabled(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = refusing(4, vec![Script::OnceTold; 10]).await;
    let id = app.subscribe_with(&receiver.url(), json!({ "retry_schedule_s": [], "max_backlog": 2 })).await;
    for _ in 0..4 {
        fail(&app, id, 1).await;
    }
    let asked = replay(&app, id, json!({ "from": LONG_AGO })).await;
    replay_when(&app, &asked, |replay| replay["resent"] == 1).await;
    app.post(&format!("/subscriptions/{id}/disable"), json!({})).await.expect(200);
    receiver.answer_from_now_on();
    (0..10).for_each(|_| receiver.tell());
    let rows = found(&app, None, &format!("subscription_id={id}")).await;
    app.status_when(&ids(&rows)[0], "delivered").await;
    let waiting = app.get(&format!("/replays/{asked}")).await.expect(200);
    assert_eq!((&waiting["state"], &waiting["resent"]), (&json!("running"), &json!(1)));
    app.post(&format!("/subscriptions/{id}/enable"), json!({})).await.expect(200);
    let done = replay_when(&app, &asked, |replay| replay["state"] == "done").await;
    assert_eq!(done["resent"], 4);
}

async fn a_replay_ends_with_its_subscription(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = refusing(3, vec![Script::Hang; 10]).await;
    let id = app.subscribe_with(&receiver.url(), json!({ "retry_schedule_s": [], "max_backlog": 2 })).await;
    for _ in 0..3 {
        fail(&app, id, 1).await;
    }
    let asked = replay(&app, id, json!({ "from": LONG_AGO })).await;
    replay_when(&app, &asked, |replay| replay["resent"] == 1).await;
    app.delete(&format!("/subscriptions/{id}")).await.expect(204);
    let ended = app.get(&format!("/replays/{asked}")).await.expect(200);
    let why = (json!("cancelled"), json!("the subscription was deleted"));
    assert_eq!((&ended["state"], &ended["detail"]), (&why.0, &why.1));
    app.get(&format!("/subscriptions/{id}/replays")).await.expect(404);
}

async fn killed_in_the_middle_of_a_replay_it_leaves_nothing_out_and_makes_nothing_twice(backend: Backend) {
    const EVENTS: usize = 60;
    let home = Home::new(backend).await;
    let process = Process::start(&home).await;
    let receiver = refusing(EVENTS, vec![Script::OnceTold; 1_000]).await;
    process.post("/subscriptions", json!({ "target_url": receiver.url(), "retry_schedule_s": [] })).await;
    let mut firsts = BTreeSet::new();
    for n in 0..EVENTS {
        firsts.insert(text(&process.post("/ingest/1", json!({ "n": n })).await["delivery_id"]));
    }
    let get = async |base: &str, path: &str| send(client().get(format!("{base}{path}"))).await.expect(200);
    let deadline = Instant::now() + PATIENCE;
    let all_failed = async || {
        let page = get(&process.base, "/deliveries?state=failed&limit=500").await;
        page["deliveries"].as_array().map(Vec::len) == Some(EVENTS)
    };
    while !all_failed().await {
        assert!(Instant::now() < deadline);
    }
    // A few at a time, so that the kill finds it under way.
    let narrow = client().patch(format!("{}/subscriptions/1", process.base)).body(r#"{"max_backlog":20}"#);
    send(narrow).await.expect(200);
    process.post("/subscriptions/1/replay", json!({ "from": LONG_AGO })).await;
    let mut resent = 0;
    while resent < 25 {
        receiver.tell();
        let replay = get(&process.base, "/replays/1").await;
        assert_eq!(replay["state"], "running");
        resent = replay["resent"].as_u64().expect("a number");
        assert!(Instant::now() < deadline + PATIENCE, "{replay}");
    }
    process.kill().await;

    receiver.answer_from_now_on();
    let process = Process::start(&home).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let replay = get(&process.base, "/replays/1").await;
        if replay["state"] == "done" {
            assert_eq!((&replay["matched"], &replay["resent"]), (&json!(EVENTS), &json!(EVENTS)));
            break;
        }
        assert!(Instant::now() < deadline, "{replay}");
    }
    let page = get(&process.base, "/deliveries?limit=500").await;
    let rows = page["deliveries"].as_array().expect("rows");
    let mut repeated: Vec<_> = rows.iter().filter_map(|row| row["resend_of"].as_str().map(str::to_owned)).collect();
    repeated.sort_unstable();
    assert_eq!(repeated, firsts.into_iter().collect::<Vec<_>>(), "each of them once");
}

/// Whoever is asked, the process that delivers does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_asked_of_a_process_that_stands_by_is_done_by_the_one_that_delivers() {
    let home = Home::new(Backend::Postgres).await;
    let app = Builder::at(home.clone()).start().await;
    let other = Builder::at(home).start().await;
    let mut receiver = refusing(2, []).await;
    let id = app.subscribe_with(&receiver.url(), once()).await;
    let failed = fail(&app, id, 2).await;
    for _ in 0..2 {
        receiver.next().await;
    }
    let asked = replay(&other, id, json!({ "from": LONG_AGO })).await;
    replay_when(&other, &asked, |replay| replay["state"] == "done").await;
    let again = BTreeSet::from([receiver.next().await.id().to_owned(), receiver.next().await.id().to_owned()]);
    assert_eq!(again, failed);
    let found = found(&other, None, "state=failed").await;
    assert_eq!(ids(&found).len(), 2, "it finds what there is as well");
}
