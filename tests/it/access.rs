//! API keys: who may call what, and how long a key is good for. Every route is taken from the document that the service
//! serves, so that a new one cannot be forgotten.

use hookpost::access::Role;
use hookpost::delivery::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::app::{Answer, App, Backend, Builder, Home, on_both_stores, send, test_url};
use crate::receiver::{PATIENCE, Receiver};

on_both_stores!(
    every_route_that_is_not_open_asks_for_a_key_and_for_a_role_that_may,
    a_key_is_made_shown_once_listed_and_revoked,
    a_revoked_an_expired_and_an_unknown_key_are_refused_alike,
    a_service_without_an_admins_key_does_not_start_and_names_the_ways_out,
    ingest_to_a_subscription_with_a_secret_needs_the_key_and_the_signature,
    a_refused_body_is_read_so_that_its_sender_hears_why,
    creating_subscriptions_without_end_ends_at_the_tenants_quota,
);

/// What strangers may see.
const OPEN: [&str; 7] = ["/", "/docs", "/docs/{file}", "/openapi.json", "/problems/{name}", "/livez", "/readyz"];

/// The roles that may call an operation.
fn may(method: &str, path: &str) -> &'static [Role] {
    match (method, path) {
        (_, "/keys" | "/keys/{prefix}" | "/subscriptions/{id}/secret") => &[Role::Admin],
        ("POST", "/ingest/{id}" | "/events") => &[Role::Admin, Role::Producer],
        ("GET", "/metrics") => &[Role::Admin, Role::Reader],
        ("GET", _) => &[Role::Admin, Role::Reader, Role::Tenant],
        _ => &[Role::Admin, Role::Tenant],
    }
}

/// All operations that the service says it has: the method and the path with `{names}`.
pub async fn operations(app: &App) -> Vec<(String, String)> {
    let document = app.get("/openapi.json").await.expect(200);
    let paths = document["paths"].as_object().expect("paths").clone();
    let methods = |(path, item): (String, Value)| {
        let named = item.as_object().expect("an item").keys().filter(|name| *name != "parameters");
        named.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
    };
    let operations: Vec<_> = paths.into_iter().flat_map(methods).collect();
    assert!(operations.len() > 20, "{operations:?}");
    operations
}

/// The path, with ids of nothing in place of the names.
fn of_nothing(path: &str) -> String {
    let uuid = "01890a5d-ac96-774b-bcce-b302099a8057";
    let names = [("{id}", "404"), ("{delivery_id}", uuid), ("{event_id}", uuid), ("{prefix}", "0123456789")];
    let names = names.into_iter().chain([("{replay_id}", "404"), ("{file}", "index.html"), ("{name}", "busy")]);
    let path = names.fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
    assert!(!path.contains('{'), "tell this test what to put into {path}");
    path
}

fn kind(answer: &Answer) -> String {
    let kind = answer.json()["type"].as_str().expect("a problem").to_owned();
    kind.trim_start_matches("/problems/").to_owned()
}

async fn every_route_that_is_not_open_asks_for_a_key_and_for_a_role_that_may(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let mut keys = Vec::new();
    for role in Role::ALL {
        keys.push((role, app.key(role, (role == Role::Tenant).then_some("acme")).await));
    }
    for (method, path) in operations(&app).await {
        let at = of_nothing(&path);
        let stranger = send(app.stranger(method.parse().expect("a method"), &at)).await;
        if OPEN.contains(&&*path) {
            assert!(stranger.status != 401 && stranger.status != 403, "{method} {path}: {stranger:?}");
            continue;
        }
        assert_eq!((stranger.status.as_u16(), &*kind(&stranger)), (401, "key-missing"), "{method} {path}");
        assert_eq!(stranger.headers["www-authenticate"], "Bearer");
        let wrong = app.ask("hunter2", &method, &at, "").await;
        assert_eq!((wrong.status.as_u16(), &*kind(&wrong)), (401, "key-wrong"), "{method} {path}");
        for (role, key) in &keys {
            let answer = app.ask(key, &method, &at, "").await;
            if may(&method, &path).contains(role) {
                assert!(answer.status != 401 && answer.status != 403, "{role:?} {method} {path}: {answer:?}");
            } else {
                assert_eq!((answer.status.as_u16(), &*kind(&answer)), (403, "not-allowed"), "{role:?} {method} {path}");
                assert!(answer.text.contains(&format!("role {}", role.as_str())), "{answer:?}");
            }
        }
    }
    let home = send(app.stranger(Method::GET, "/")).await;
    assert!(home.text.contains("Alive and ready") && !home.text.contains("<table"), "{}", home.text);
    let ready = send(app.stranger(Method::GET, "/readyz")).await.expect(200);
    let shown: Vec<_> = ready.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(shown, ["checks", "status"], "figures are not for strangers");
}

async fn a_key_is_made_shown_once_listed_and_revoked(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let body = json!({ "name": "acme", "role": "tenant", "tenant": "acme", "expires_in_s": 3600 });
    let answer = app.post("/keys", body).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let location = answer.headers["location"].to_str().expect("text").to_owned();
    let made = answer.expect(201);
    let key = made["key"].as_str().expect("a key");
    assert_eq!(location, format!("/keys/{}", made["prefix"].as_str().expect("a prefix")));

    let shown = app.get(&location).await;
    assert!(!shown.text.contains(key), "{shown:?}");
    let shown = shown.expect(200);
    for field in ["prefix", "name", "role", "tenant", "created_at", "expires_at", "revoked_at"] {
        assert_eq!(shown[field], made[field], "{field}");
    }
    let first = app.get("/keys?limit=1").await;
    assert!(first.headers["link"].to_str().expect("text").contains("</keys?limit=1&after="), "{first:?}");
    let listed = app.get("/keys").await.expect(200);
    assert!(listed.as_array().expect("a list").contains(&shown), "{listed}");

    app.ask(key, "GET", "/subscriptions", "").await.expect(200);
    for _ in 0..2 {
        app.delete(&location).await.expect(204);
        let refused = app.ask(key, "GET", "/subscriptions", "").await;
        assert_eq!((refused.status.as_u16(), &*kind(&refused)), (401, "key-wrong"), "at once, where it was revoked");
    }
    assert!(app.get(&location).await.expect(200)["revoked_at"].is_string(), "it stays listed");
    assert_eq!(kind(&app.delete("/keys/0123456789").await), "key-not-found");
    let whole = app.delete(&format!("/keys/{key}")).await;
    assert!(kind(&whole) == "key-not-found" && !whole.text.contains(key), "{whole:?}");
}

async fn a_revoked_an_expired_and_an_unknown_key_are_refused_alike(backend: Backend) {
    let builder = Builder::new(backend).await.with_keys().await;
    let expired = builder.make_key(Role::Reader, None, Some(Timestamp(1))).await;
    let app = builder.start().await;
    let revoked = app.key(Role::Reader, None).await;
    let prefix = revoked.split('_').nth(1).expect("a prefix");
    app.delete(&format!("/keys/{prefix}")).await.expect(204);
    let other_secret = format!("{}{}", &app.admin_key()[..14], "0".repeat(43));
    let unknown = format!("hp_0123456789_{}", "0".repeat(43));
    let answer = app.ask("hunter2", "GET", "/subscriptions", "").await;
    assert_eq!((answer.status.as_u16(), &*kind(&answer)), (401, "key-wrong"));
    for key in [&*revoked, &expired, &other_secret, &unknown, ""] {
        let refused = app.ask(key, "GET", "/subscriptions", "").await;
        assert_eq!((refused.status, &refused.text), (answer.status, &answer.text));
    }
    for scheme in ["Basic", "bearer,"] {
        let header = format!("{scheme} {}", app.admin_key());
        let refused = send(app.stranger(Method::GET, "/subscriptions").header("authorization", header)).await;
        assert_eq!(refused.status, 401);
    }
}

async fn a_service_without_an_admins_key_does_not_start_and_names_the_ways_out(backend: Backend) {
    let home = Home::new(backend).await;
    let builder = || Builder::at(home.clone()).admin("none");
    let said = builder().refusal().await;
    for way_out in ["hookpost keys create --admin", "--dev", "HOOKPOST_AUTH=off"] {
        assert!(said.contains(way_out) && !said.contains('\n'), "{said}");
    }
    builder().make_key(Role::Reader, None, None).await;
    builder().make_key(Role::Admin, None, Some(Timestamp(1))).await;
    assert!(builder().refusal().await.contains("keys create --admin"), "neither could make another key");
    let admin = builder().make_key(Role::Admin, None, None).await;
    builder().admin(&admin).start().await.get("/subscriptions").await.expect(200);
}

async fn ingest_to_a_subscription_with_a_secret_needs_the_key_and_the_signature(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    let mut receiver = Receiver::start([]).await;
    let producer = app.key(Role::Producer, None).await;
    let body = json!({ "target_url": receiver.url(), "secret": "mysecret" });
    app.post("/subscriptions", body).await.expect(201);
    // Computed by others: shared with the vectors of the signing tests.
    let signature = "sha256=07f1da34b6ff57da613077d361ed7debaca285d7fed3c05254a2d82822b51d01";
    let event = r#"{"order_id":123,"amount":49.99}"#;
    let ingest = || app.stranger(Method::POST, "/ingest/1").body(event);
    assert_eq!(kind(&send(ingest().header("x-hub-signature-256", signature)).await), "key-missing");
    assert_eq!(kind(&send(ingest().bearer_auth(&producer)).await), "signature-missing");
    let both = ingest().bearer_auth(&producer).header("x-hub-signature-256", signature);
    let accepted = send(both).await.expect(202);
    assert_eq!(receiver.next().await.id(), accepted["delivery_id"]);
}

async fn a_refused_body_is_read_so_that_its_sender_hears_why(backend: Backend) {
    let app = Builder::new(backend).await.with_keys().await.start().await;
    for path in ["/ingest/1", "/events", "/subscriptions", "/keys"] {
        let large = send(app.stranger(Method::POST, path).body(vec![b' '; 3 << 20])).await;
        assert_eq!((large.status.as_u16(), &*kind(&large)), (401, "key-missing"), "{path}");
    }
}

async fn creating_subscriptions_without_end_ends_at_the_tenants_quota(backend: Backend) {
    let app = Builder::new(backend).await.max_subscriptions(2).with_keys().await.start().await;
    let key = app.key(Role::Tenant, Some("acme")).await;
    let body = json!({ "target_url": "https://receiver.example/hook" }).to_string();
    let create = || app.ask(&key, "POST", "/subscriptions", &body);
    let first = create().await.expect(201);
    create().await.expect(201);
    for _ in 0..3 {
        let refused = create().await;
        assert_eq!((refused.status.as_u16(), &*kind(&refused)), (409, "quota-exceeded"));
        assert_eq!(refused.json()["limit"], 2);
    }
    assert_eq!(app.get("/subscriptions").await.expect(200).as_array().map(Vec::len), Some(2));
    app.subscribe("https://receiver.example/hook").await;
    app.ask(&key, "DELETE", &format!("/subscriptions/{}", first["id"]), "").await.expect(204);
    create().await.expect(201);
}

/// Over two processes on one store, with Redis there or not.
async fn api_keys_a_revocation_is_effective_within_a_second(redis: &str) {
    let home = Home::new(Backend::Postgres).await;
    let one = Builder::at(home.clone()).redis(redis).with_keys().await.start().await;
    let other = Builder::at(home).redis(redis).admin(one.admin_key()).start().await;
    for _ in 0..3 {
        let key = one.key(Role::Reader, None).await;
        let known = async { while other.ask(&key, "GET", "/subscriptions", "").await.status != 200 {} };
        tokio::time::timeout(PATIENCE, known).await.expect("the other hears of it");
        let prefix = key.split('_').nth(1).expect("a prefix");
        one.delete(&format!("/keys/{prefix}")).await.expect(204);
        let revoked = Instant::now();
        loop {
            let asked_after = revoked.elapsed();
            if other.ask(&key, "GET", "/subscriptions", "").await.status == 401 {
                break;
            }
            assert!(asked_after.as_millis() <= 1000, "still let in {asked_after:?} after the revocation");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_keys_a_revocation_is_effective_within_a_second_with_redis_up() {
    api_keys_a_revocation_is_effective_within_a_second(&test_url("TEST_REDIS_URL")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_keys_a_revocation_is_effective_within_a_second_with_redis_down() {
    let gone = Receiver::reserve().await.local_addr().expect("an address");
    api_keys_a_revocation_is_effective_within_a_second(&format!("redis://{gone}")).await;
}
