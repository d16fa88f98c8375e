//! Tenants: what belongs to another does not exist. Every route is taken from the document that the service serves, so that
//! a new one cannot be forgotten.

use hookpost::access::Role;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::access::operations;
use crate::app::{Answer, App, Backend, Builder, on_both_stores};
use crate::receiver::Receiver;

on_both_stores!(
    another_tenants_ids_are_answered_as_missing_ones_on_every_route,
    a_list_shows_only_the_callers_tenants,
    what_a_confined_caller_makes_is_its_tenants_and_no_others,
    a_delivery_stays_its_tenants_when_its_subscription_is_deleted,
    an_event_for_another_tenants_subscription_does_not_start_its_actor,
);

/// One id of each kind.
#[derive(Clone)]
struct Ids {
    subscription: String,
    delivery: String,
    event: String,
    replay: String,
}

impl Ids {
    /// A subscription of the tenant, with an event that it received.
    async fn of(app: &App, tenant: &str, target_url: &str) -> Self {
        let body = json!({ "target_url": target_url, "tenant": tenant, "ed25519": true });
        let id = app.post("/subscriptions", body).await.expect(201)["id"].clone();
        let event = json!({ "event_type": "order.created", "payload": {}, "tenant": tenant });
        let published = app.post("/events", event).await.expect(202);
        let made = published["deliveries"].as_array().expect("deliveries");
        let delivery = made.iter().find(|made| made["subscription_id"] == id).expect("its delivery");
        let replay = app.post(&format!("/subscriptions/{id}/replay"), json!({ "from": "2020-01-01T00:00:00Z" })).await;
        let replay = replay.expect(202)["replay_id"].to_string();
        app.post(&format!("/replays/{replay}/cancel"), json!({})).await.expect(200);
        let text = |value: &Value| value.as_str().expect("an id").to_owned();
        Self {
            subscription: id.to_string(),
            delivery: text(&delivery["delivery_id"]),
            event: text(&published["event_id"]),
            replay,
        }
    }

    fn missing() -> Self {
        let uuid = "01890a5d-ac96-774b-bcce-b302099a8057".to_owned();
        Self { subscription: "99999".to_owned(), delivery: uuid.clone(), event: uuid, replay: "99999".to_owned() }
    }

    /// The path with these ids in place of the names, and which of them that is; `None` if it names none.
    fn put_into(&self, path: &str) -> Option<(String, &str)> {
        let (before, rest) = path.split_once('{')?;
        let (name, after) = rest.split_once('}').expect("a name ends");
        let id = match name {
            "id" => &self.subscription,
            "delivery_id" => &self.delivery,
            "event_id" => &self.event,
            "replay_id" => &self.replay,
            // A key's prefix: keys are no tenant's, and only admins come to them. The others are open.
            "prefix" | "file" | "name" => return None,
            other => panic!("tell this test what {{{other}}} in {path} is"),
        };
        Some((format!("{before}{id}{after}"), id))
    }
}

/// All that a caller is told, with the id taken out.
fn told(answer: &Answer, id: &str) -> (u16, Vec<(String, String)>, String) {
    let text = |headers: &HeaderMap| {
        let kept = headers.iter().filter(|(name, _)| !["date", "content-length"].contains(&name.as_str()));
        kept.map(|(name, value)| (name.to_string(), format!("{value:?}"))).collect()
    };
    (answer.status.as_u16(), text(&answer.headers), answer.text.replace(id, "ID"))
}

/// A body that would do, had it not been for the id.
fn body(method: &str, path: &str) -> &'static str {
    match (method, path) {
        ("POST", "/ingest/{id}") | ("PUT" | "PATCH", _) => "{}",
        ("POST", "/subscriptions/{id}/replay") => r#"{"from":"2020-01-01T00:00:00Z"}"#,
        _ => "",
    }
}

async fn another_tenants_ids_are_answered_as_missing_ones_on_every_route(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let receiver = Receiver::start([]).await;
    let (foreign, missing) = (Ids::of(&app, "acme", &receiver.url()).await, Ids::missing());
    let mut keys = Vec::new();
    for role in [Role::Tenant, Role::Reader, Role::Producer] {
        keys.push((role, app.key(role, Some("bolt")).await));
    }
    let as_it_is = || async { app.get(&format!("/subscriptions/{}", foreign.subscription)).await.expect(200) };
    let before = as_it_is().await;
    let mut hidden = 0;
    for (method, path) in operations(&app).await {
        let Some((at_foreign, foreign_id)) = foreign.put_into(&path) else { continue };
        let (at_missing, missing_id) = missing.put_into(&path).expect("the same names");
        for (role, key) in &keys {
            let body = body(&method, &path);
            let one = app.ask(key, &method, &at_foreign, body).await;
            let other = app.ask(key, &method, &at_missing, body).await;
            assert_eq!(told(&one, foreign_id), told(&other, missing_id), "{role:?} {method} {path}");
            assert!(one.status == 404 || one.status == 403, "{role:?} {method} {path}: {one:?}");
            if one.status == 404 {
                hidden += 1;
                // Or it would be no proof: what is the caller's own is there.
                let own = Ids::of(&app, "bolt", &receiver.url()).await;
                let (at_own, _) = own.put_into(&path).expect("the same names");
                let own = app.ask(key, &method, &at_own, body).await;
                assert!(own.status.is_success(), "{role:?} {method} {path}: {own:?}");
            }
        }
    }
    assert!(hidden > 15, "only {hidden} calls came to an id");
    assert_eq!(as_it_is().await, before, "nothing was changed");
}

async fn a_list_shows_only_the_callers_tenants(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    for tenant in ["acme", "bolt", "acme", "bolt", "acme"] {
        let body = json!({ "target_url": "https://receiver.example/hook", "tenant": tenant });
        app.post("/subscriptions", body).await.expect(201);
    }
    let key = app.key(Role::Reader, Some("acme")).await;
    let ids = |answer: &Answer| -> Vec<i64> {
        answer.json().as_array().expect("a list").iter().map(|row| row["id"].as_i64().expect("an id")).collect()
    };
    let first = app.ask(&key, "GET", "/subscriptions?limit=2", "").await;
    assert_eq!(ids(&first), [1, 3]);
    let link = first.headers["link"].to_str().expect("text");
    let next = link.split(['<', '>']).nth(1).expect("a link");
    let last = app.ask(&key, "GET", next, "").await;
    assert!(ids(&last) == [5] && !last.headers.contains_key("link"), "{last:?}");
    assert_eq!(ids(&app.get("/subscriptions").await), [1, 2, 3, 4, 5]);
}

async fn what_a_confined_caller_makes_is_its_tenants_and_no_others(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let (manager, producer) = (app.key(Role::Tenant, Some("acme")).await, app.key(Role::Producer, Some("acme")).await);
    let subscription = json!({ "target_url": "https://receiver.example/hook" });
    let event = json!({ "event_type": "order.created", "payload": {} });
    for (key, path, body) in [(&manager, "/subscriptions", subscription), (&producer, "/events", event)] {
        for (named, status) in [(None, "acme"), (Some("acme"), "acme"), (Some("bolt"), "refused")] {
            let mut body = body.clone();
            if let Some(named) = named {
                body["tenant"] = named.into();
            }
            let answer = app.ask(key, "POST", path, &body.to_string()).await;
            if status == "refused" {
                let problem = answer.expect(400);
                assert_eq!(problem["type"], "/problems/invalid-field");
                assert_eq!(problem["errors"][0]["field"], "tenant");
            } else {
                assert!(answer.status.is_success(), "{answer:?}");
                assert_eq!(answer.json()["tenant"], status);
            }
        }
    }
}

async fn a_delivery_stays_its_tenants_when_its_subscription_is_deleted(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let mut receiver = Receiver::start([]).await;
    let ids = Ids::of(&app, "acme", &receiver.url()).await;
    receiver.next().await;
    app.delete(&format!("/subscriptions/{}", ids.subscription)).await.expect(204);
    let (own, foreign) = (app.key(Role::Tenant, Some("acme")).await, app.key(Role::Tenant, Some("bolt")).await);
    for path in [format!("/status/{}", ids.delivery), format!("/deliveries/{}/explain", ids.delivery)] {
        app.ask(&own, "GET", &path, "").await.expect(200);
        app.ask(&foreign, "GET", &path, "").await.expect(404);
    }
}

async fn an_event_for_another_tenants_subscription_does_not_start_its_actor(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let made = json!({ "target_url": "http://127.0.0.1:9/", "tenant": "acme" });
    let id = app.post("/subscriptions", made).await.expect(201)["id"].clone();
    let foreign = app.key(Role::Producer, Some("bolt")).await;
    app.ask(&foreign, "POST", &format!("/ingest/{id}"), "{}").await.expect(404);
    let metrics = app.get("/metrics").await.text;
    assert!(metrics.lines().any(|line| line == "hookpost_actors_active 0"), "{metrics}");
    let own = app.key(Role::Producer, Some("acme")).await;
    app.ask(&own, "POST", &format!("/ingest/{id}"), "{}").await.expect(202);
}
