//! `/keys`: made, listed, revoked. A key is shown in the answer that makes it and never again.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::Value;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{StatusCode, header};
use warp::reply::Response;

use super::access::{Access, access};
use super::body::{Frames, Sent, sent};
use super::problem::{FieldError, Kind, Problem, quoted, shortened};
use super::query::{self, PageRules};
use super::reply::{self, Answer, with_header};
use super::subscription_body::{kind_of, object, refuse_if_any, whole_number};
use super::subscriptions::to_the_end;
use super::{Http, get_or_head, with};
use crate::access::{ApiKey, KeyRequest, KeyShown, MAX_KEYS, Permission, Prefix, Role};

const PAGES: PageRules =
    PageRules { cursor: "after", cursor_expected: "a key's prefix", default_limit: 100, max_limit: 1000 };

const BODY_EXPECTED: &str = "an object like {\"name\": \"shop\", \"role\": \"producer\"}";
const FIELDS: &str = "one of name, role, tenant, expires_in_s";
const ROLE_EXPECTED: &str = "\"admin\", \"producer\", \"reader\" or \"tenant\"";
const SECONDS_EXPECTED: &str = "a whole number of seconds from 60 to 315360000, or null for a key that does not expire";

/// The routes of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let all = || warp::path("keys").and(warp::path::end());
    let one = || warp::path!("keys" / String);
    let create = all().and(warp::post()).and(with(http)).and(access(http)).and(sent()).then(create);
    let list = all().and(get_or_head()).and(with(http)).and(access(http)).and(query::raw()).then(list);
    let show = one().and(get_or_head()).and(with(http)).and(access(http)).then(show);
    let revoke = one().and(warp::delete()).and(with(http)).and(access(http)).then(revoke);
    let secret = |answer| with_header(reply::render(answer), header::CACHE_CONTROL, "no-store");
    create.or(list).unify().or(show).unify().or(revoke).unify().map(secret).boxed()
}

async fn create(http: Arc<Http>, access: Access, sent: Sent<impl Frames>) -> Answer {
    let (caller, body) = access.with_body(Permission::Administer, &http.bodies, sent).await?;
    let request = request(&body)?;
    let now = http.api.clock.wall();
    let (text, new) = request.issue(now);
    let created = to_the_end(async move {
        let created = http.api.store.create_api_key(new, MAX_KEYS, &caller.actor, now).await?.ok_or_else(too_many)?;
        taken(&http, &created);
        Ok(created)
    })
    .await?;
    let location = format!("/keys/{}", created.prefix);
    let response = reply::json(StatusCode::CREATED, &Made::new(&created, &text))?;
    Ok(with_header(response, header::LOCATION, &location))
}

/// A change of a key counts here at once; other processes hear of it from the store.
fn taken(http: &Http, key: &ApiKey) {
    if let Some(keys) = &http.api.keys {
        keys.changed(key);
    }
}

fn too_many() -> Problem {
    let detail = format!("the service holds {MAX_KEYS} live keys, the most that it may; revoke some that are not used");
    Problem::new(Kind::QuotaExceeded, detail).member("limit", MAX_KEYS)
}

async fn list(http: Arc<Http>, access: Access, query: String) -> Answer {
    access.to(Permission::Administer)?;
    let page = PAGES.parse(&query)?;
    let mut found = http.api.store.api_keys(page.cursor, page.asked()).await?;
    let next = page.cut(&mut found, |last| last.prefix);
    let response = reply::json(StatusCode::OK, &found.iter().map(KeyShown::from).collect::<Vec<_>>())?;
    Ok(PAGES.link_next(response, "/keys", page.limit, next))
}

async fn show(segment: String, http: Arc<Http>, access: Access) -> Answer {
    access.to(Permission::Administer)?;
    let prefix = prefix(&segment)?;
    let found = http.api.store.api_key(prefix).await?.ok_or_else(|| not_found(&segment))?;
    reply::json(StatusCode::OK, &KeyShown::from(&found))
}

async fn revoke(segment: String, http: Arc<Http>, access: Access) -> Answer {
    let caller = access.to(Permission::Administer)?;
    let prefix = prefix(&segment)?;
    to_the_end(async move {
        let now = http.api.clock.wall();
        let revoked =
            http.api.store.revoke_api_key(prefix, &caller.actor, now).await?.ok_or_else(|| not_found(&segment))?;
        taken(&http, &revoked);
        Ok(())
    })
    .await?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn prefix(segment: &str) -> Result<Prefix, Problem> {
    segment.parse().map_err(|_| not_found(segment))
}

/// Whole keys are mistaken for prefixes: nothing of what was sent is shown.
fn not_found(segment: &str) -> Problem {
    let detail = match segment.parse::<Prefix>() {
        Ok(prefix) => format!("there is no key {prefix}"),
        Err(_) => "keys are named by their prefix, the ten characters between hp_ and the second _".to_owned(),
    };
    Problem::new(Kind::KeyNotFound, detail)
}

/// The only answer with a key in it.
#[derive(Serialize)]
struct Made<'a> {
    #[serde(flatten)]
    shown: KeyShown<'a>,
    key: &'a str,
}

impl<'a> Made<'a> {
    fn new(key: &'a ApiKey, text: &'a SecretString) -> Self {
        Self { shown: KeyShown::from(key), key: text.expose_secret() }
    }
}

fn request(body: &[u8]) -> Result<KeyRequest, Problem> {
    let (mut request, mut errors) = (Fields::default(), Vec::new());
    for (name, value) in object(body, BODY_EXPECTED)? {
        let read = match &*name {
            "name" => text("name", value, "a string").map(|name| request.name = Some(name)),
            "role" => role(value).map(|role| request.role = Some(role)),
            "tenant" => text("tenant", value, "a string, or nothing").map(|tenant| request.tenant = Some(tenant)),
            "expires_in_s" => seconds(&value).map(|lifetime| request.expires_in = lifetime),
            other => Err(FieldError::new(shortened(other), "a field that does not exist", FIELDS)),
        };
        errors.extend(read.err());
    }
    for (field, missing) in [("name", request.name.is_none()), ("role", request.role.is_none())] {
        if missing && errors.iter().all(|error| error.field != field) {
            let expected = if field == "name" { "a string that says what the key is for" } else { ROLE_EXPECTED };
            errors.push(FieldError::new(field, "nothing", expected));
        }
    }
    refuse_if_any(errors)?;
    let Fields { name, role, tenant, expires_in } = request;
    let request = KeyRequest { name: name.unwrap_or_default(), role: role.unwrap_or(Role::Reader), tenant, expires_in };
    let refused = request.check().into_iter().map(|refused| match refused.field {
        "expires_in" => FieldError::new("expires_in_s", refused.found, SECONDS_EXPECTED),
        field => FieldError::new(field, refused.found, refused.expected),
    });
    refuse_if_any(refused.collect())?;
    Ok(request)
}

#[derive(Default)]
struct Fields {
    name: Option<String>,
    role: Option<Role>,
    tenant: Option<String>,
    expires_in: Option<Duration>,
}

fn text(field: &'static str, value: Value, expected: &'static str) -> Result<String, FieldError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(FieldError::new(field, kind_of(&other), expected)),
    }
}

fn role(value: Value) -> Result<Role, FieldError> {
    let word = text("role", value, ROLE_EXPECTED)?;
    word.parse().map_err(|_| FieldError::new("role", quoted(&word), ROLE_EXPECTED))
}

fn seconds(value: &Value) -> Result<Option<Duration>, FieldError> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => match whole_number(value) {
            Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
            None => Err(FieldError::new("expires_in_s", number.to_string(), SECONDS_EXPECTED)),
        },
        other => Err(FieldError::new("expires_in_s", kind_of(other), SECONDS_EXPECTED)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::delivery::Timestamp;
    use crate::http::openapi::tests::assert_matches;

    fn refusal(body: &Value) -> String {
        let problem = request(body.to_string().as_bytes()).expect_err("refused");
        assert_eq!(problem.kind(), Kind::InvalidField);
        format!("{problem:?}")
    }

    #[test]
    fn a_key_has_a_name_a_role_and_perhaps_a_tenant_and_an_end() {
        let body = json!({"name": "acme", "role": "tenant", "tenant": "acme", "expires_in_s": 60});
        let asked = request(body.to_string().as_bytes()).unwrap();
        assert_eq!((asked.role, asked.tenant.as_deref()), (Role::Tenant, Some("acme")));
        assert_eq!(asked.expires_in, Some(Duration::from_secs(60)));
        let least = request(br#"{"name":"ops","role":"admin","expires_in_s":null}"#).unwrap();
        assert_eq!((least.tenant, least.expires_in), (None, None));
    }

    #[test]
    fn wrong_fields_are_named_together() {
        let said = refusal(&json!({"role": "root", "tenant": 7, "expires_in_s": "90d", "colour": "red"}));
        for part in ["name", "root", "a number", "expires_in_s", "colour"] {
            assert!(said.contains(part), "{part} is missing in {said}");
        }
        assert!(refusal(&json!({"name": "a", "role": "tenant"})).contains("of role tenant has one"));
        assert!(refusal(&json!({"name": "a", "role": "reader", "expires_in_s": 59})).contains("from 60"));
        assert!(refusal(&json!({"name": "a", "role": "reader", "expires_in_s": -1})).contains("-1"));
    }

    #[test]
    fn a_key_is_shown_with_its_text_once_and_without_it_ever_after() {
        let asked = KeyRequest { name: "shop".into(), role: Role::Producer, tenant: None, expires_in: None };
        let (text, new) = asked.issue(Timestamp(1_700_000_000_000));
        let key = ApiKey {
            prefix: new.prefix,
            name: new.name,
            role: new.role,
            tenant: None,
            hash: new.hash,
            created_at: Timestamp(1_700_000_000_000),
            expires_at: None,
            revoked_at: Some(Timestamp(1_700_000_000_001)),
            revision: 1,
        };
        let made = json!(Made::new(&key, &text));
        assert_matches("MadeApiKey", &made);
        assert_eq!(made["key"], text.expose_secret());
        let shown = json!(KeyShown::from(&key));
        assert_matches("ApiKey", &shown);
        assert_eq!((&shown["role"], &shown["revoked_at"]), (&json!("producer"), &json!("2023-11-14T22:13:20.001Z")));
        assert!(!shown.to_string().contains("hp_"));
    }

    #[test]
    fn a_whole_key_in_the_path_is_not_shown_in_the_answer() {
        assert!(!format!("{:?}", not_found("hp_0123456789_hunter2")).contains("hunter2"));
    }
}
