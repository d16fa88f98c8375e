//! `/subscriptions/{id}/disable`, `/enable` and `/changes`: deliveries are held back or go on, by hand, and who did so
//! and why. Either is done once, however often it is asked for.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::access::{Access, access};
use super::body::{Frames, Sent, sent};
use super::problem::{FieldError, Problem, quoted, shortened};
use super::query::{self, PageRules};
use super::reply::{self, Answer};
use super::subscription_body::{kind_of, object, refuse_if_any};
use super::subscription_shown::Shown;
use super::subscriptions::{Deed, merge, to_the_end};
use super::{Http, IdSegment, get_or_head, visible, with};
use crate::access::{Caller, Permission};
use crate::audit::Action;
use crate::delivery::{DisabledReason, StateChange, Subscription, SubscriptionId};
use crate::store::SubscriptionChange;

/// A sentence or two; it is sent with the event that tells of it.
const MAX_REASON_CHARS: usize = 200;

const DISABLE_EXPECTED: &str = "nothing, or an object like {\"reason\": \"moving to another host\"}";
const ENABLE_EXPECTED: &str = "nothing, or an object like {\"backlog\": \"drop\"}";
const REASON_EXPECTED: &str = "a string of 1 to 200 printable characters, or null for none";
const BACKLOG_EXPECTED: &str = "\"deliver\" or \"drop\"";

const PAGES: PageRules =
    PageRules { cursor: "before", cursor_expected: "the id of a change, a number", default_limit: 50, max_limit: 500 };

/// The routes of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let disable = warp::path!("subscriptions" / IdSegment / "disable").and(warp::post());
    let disable = disable.and(with(http)).and(access(http)).and(sent()).then(disable_by_hand);
    let enable = warp::path!("subscriptions" / IdSegment / "enable").and(warp::post());
    let enable = enable.and(with(http)).and(access(http)).and(sent()).then(enable_by_hand);
    let changes = warp::path!("subscriptions" / IdSegment / "changes").and(get_or_head());
    let changes = changes.and(with(http)).and(access(http)).and(query::raw()).then(changes_of);
    disable.or(enable).unify().or(changes).unify().map(reply::render).boxed()
}

async fn disable_by_hand(segment: IdSegment, http: Arc<Http>, access: Access, sent: Sent<impl Frames>) -> Answer {
    let (caller, body) = access.with_body(Permission::Manage, &http.bodies, sent).await?;
    let id = segment.id()?;
    let reason = reason(&body)?;
    changed(http, caller, id, Action::Disabled, move |current| {
        current.disabled.is_none().then(|| disabling(reason.clone()))
    })
    .await
}

async fn enable_by_hand(segment: IdSegment, http: Arc<Http>, access: Access, sent: Sent<impl Frames>) -> Answer {
    let (caller, body) = access.with_body(Permission::Manage, &http.bodies, sent).await?;
    let id = segment.id()?;
    let backlog = backlog(&body)?;
    // What is to be dropped is dropped from an enabled subscription, too.
    changed(http, caller, id, Action::Enabled, move |current| {
        let disabled = current.disabled.is_some();
        (disabled || backlog == Backlog::Drop).then(|| enabling(disabled, backlog))
    })
    .await
}

/// Makes the change that follows from what the subscription is, if one does, and shows what it is then.
async fn changed(
    http: Arc<Http>,
    caller: Caller,
    id: SubscriptionId,
    action: Action,
    change: impl Fn(&Subscription) -> Option<SubscriptionChange> + Send + Sync + 'static,
) -> Answer {
    let subscription = to_the_end(async move {
        merge(&http, &caller, id, |current| {
            Ok(change(current).map(|change| (Deed { action, detail: change.detail.clone() }, change)))
        })
        .await
    })
    .await?;
    reply::json(StatusCode::OK, &Shown::from(&subscription))
}

fn disabling(reason: Option<String>) -> SubscriptionChange {
    let detail = reason.unwrap_or_else(|| "disabled by hand".to_owned());
    SubscriptionChange {
        disabled: Some(Some(DisabledReason::ByHand)),
        detail: Some(detail),
        ..SubscriptionChange::default()
    }
}

fn enabling(disabled: bool, backlog: Backlog) -> SubscriptionChange {
    let detail = match (disabled, backlog) {
        (_, Backlog::Deliver) => "enabled by hand; what waited is delivered",
        (true, Backlog::Drop) => "enabled by hand; what waited was dropped",
        (false, Backlog::Drop) => "what waited was dropped",
    };
    SubscriptionChange {
        disabled: Some(None),
        detail: Some(detail.to_owned()),
        drop_backlog: backlog == Backlog::Drop,
        ..SubscriptionChange::default()
    }
}

/// What becomes of what waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backlog {
    Deliver,
    Drop,
}

/// The one field that a body may have; an empty body has none.
fn only_field(body: &[u8], name: &'static str, expected: &'static str) -> Result<Option<Value>, Problem> {
    if body.is_empty() {
        return Ok(None);
    }
    let mut fields = object(body, expected)?;
    let field = fields.remove(name);
    let unknown = fields.keys().map(|other| FieldError::new(shortened(other), "a field that does not exist", name));
    refuse_if_any(unknown.collect())?;
    Ok(field)
}

fn reason(body: &[u8]) -> Result<Option<String>, Problem> {
    let wrong = |found: String| refuse_if_any(vec![FieldError::new("reason", found, REASON_EXPECTED)]).map(|()| None);
    match only_field(body, "reason", DISABLE_EXPECTED)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => match text.chars().count() {
            1..=MAX_REASON_CHARS if !text.chars().any(char::is_control) => Ok(Some(text)),
            1..=MAX_REASON_CHARS => wrong(quoted(&text)),
            length => wrong(format!("a string of {length} characters")),
        },
        Some(other) => wrong(kind_of(&other)),
    }
}

fn backlog(body: &[u8]) -> Result<Backlog, Problem> {
    let wrong = |found: String| {
        let errors = vec![FieldError::new("backlog", found, BACKLOG_EXPECTED)];
        refuse_if_any(errors).map(|()| Backlog::Deliver)
    };
    match only_field(body, "backlog", ENABLE_EXPECTED)? {
        None => Ok(Backlog::Deliver),
        Some(Value::String(word)) => match &*word {
            "deliver" => Ok(Backlog::Deliver),
            "drop" => Ok(Backlog::Drop),
            other => wrong(quoted(other)),
        },
        Some(other) => wrong(kind_of(&other)),
    }
}

async fn changes_of(segment: IdSegment, http: Arc<Http>, access: Access, query: String) -> Answer {
    let caller = access.to(Permission::Read)?;
    let id = segment.id()?;
    let page = PAGES.parse(&query)?;
    visible::subscription(&http, &caller, id).await?;
    let mut found = http.api.store.state_changes(id, page.cursor, page.asked()).await?;
    let next = page.cut(&mut found, |last| last.id);
    let response = reply::json(StatusCode::OK, &found.iter().map(ShownChange::from).collect::<Vec<_>>())?;
    Ok(PAGES.link_next(response, &format!("/subscriptions/{id}/changes"), page.limit, next))
}

#[derive(Serialize)]
struct ShownChange<'a> {
    id: i64,
    at: String,
    state: &'static str,
    reason: Option<DisabledReason>,
    detail: Option<&'a str>,
}

impl<'a> From<&'a StateChange> for ShownChange<'a> {
    fn from(change: &'a StateChange) -> Self {
        Self {
            id: change.id,
            at: change.at.to_string(),
            state: if change.disabled.is_some() { "disabled" } else { "enabled" },
            reason: change.disabled,
            detail: change.detail.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::delivery::Timestamp;
    use crate::http::openapi::tests::assert_matches;

    #[test]
    fn a_reason_is_optional_and_short() {
        for body in ["", "{}", r#"{"reason":null}"#] {
            assert_eq!(reason(body.as_bytes()).unwrap(), None, "{body}");
        }
        let with = |text: &str| reason(json!({ "reason": text }).to_string().as_bytes());
        let longest = "é".repeat(MAX_REASON_CHARS);
        assert_eq!(with(&longest).unwrap().as_ref(), Some(&longest));
        for text in ["", "a\nb", &"é".repeat(MAX_REASON_CHARS + 1)] {
            assert!(with(text).is_err(), "{text}");
        }
        for body in ["{", "[]", "1", r#"{"reason":1}"#, r#"{"raeson":"x"}"#] {
            assert!(reason(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn the_backlog_is_delivered_unless_it_is_to_be_dropped() {
        for (body, read) in [
            ("", Backlog::Deliver),
            ("{}", Backlog::Deliver),
            (r#"{"backlog":"deliver"}"#, Backlog::Deliver),
            (r#"{"backlog":"drop"}"#, Backlog::Drop),
        ] {
            assert_eq!(backlog(body.as_bytes()).unwrap(), read, "{body}");
        }
        for body in ["[]", r#"{"backlog":"Drop"}"#, r#"{"backlog":null}"#, r#"{"backlog":true}"#, r#"{"drop":true}"#] {
            assert!(backlog(body.as_bytes()).is_err(), "{body}");
        }
        assert!(enabling(true, Backlog::Drop).drop_backlog && !enabling(true, Backlog::Deliver).drop_backlog);
    }

    #[test]
    fn what_was_changed_says_when_and_why() {
        let change = StateChange {
            id: 7,
            subscription_id: SubscriptionId(1),
            tenant: "default".into(),
            at: Timestamp(1_700_000_000_000),
            disabled: Some(DisabledReason::ByHand),
            detail: Some("moving to another host".into()),
        };
        let shown = json!(ShownChange::from(&change));
        assert_matches("StateChange", &shown);
        let expected = json!({"id": 7, "at": "2023-11-14T22:13:20.000Z", "state": "disabled", "reason": "by_hand",
                              "detail": "moving to another host"});
        assert_eq!(shown, expected);
        let enabled = json!(ShownChange::from(&StateChange { disabled: None, detail: None, ..change }));
        assert_matches("StateChange", &enabled);
        assert_eq!((&enabled["state"], &enabled["reason"]), (&json!("enabled"), &json!(null)));
    }
}
