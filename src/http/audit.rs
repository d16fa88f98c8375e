//! `GET /audit`: who did what, to what, and when; newest first.

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::access::{Access, access};
use super::query::{self, PageRules};
use super::reply::{self, Answer};
use super::{Http, get_or_head, with};
use crate::access::{Actor, Permission};
use crate::audit::{AuditFilter, AuditRecord, Thing};

const PAGES: PageRules =
    PageRules { cursor: "before", cursor_expected: "the id of a record, a number", default_limit: 50, max_limit: 500 };

const OBJECT_EXPECTED: &str = "what something was done to, such as subscription/7, key/3f9a1b2c4d or master_key";
const ACTOR_EXPECTED: &str = "who did something, such as key/3f9a1b2c4d, anonymous, command_line or hookpost";

/// The route of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    warp::path!("audit")
        .and(get_or_head())
        .and(access(http))
        .and(with(http))
        .and(query::raw())
        .then(audit)
        .map(reply::render)
        .boxed()
}

async fn audit(access: Access, http: Arc<Http>, query: String) -> Answer {
    let caller = access.to(Permission::Read)?;
    let (page, filters) = PAGES.parse_filtered(&query, &["object", "actor"])?;
    let filter = AuditFilter {
        object: filters.get::<Thing>("object", OBJECT_EXPECTED)?,
        by: filters.get::<Actor>("actor", ACTOR_EXPECTED)?,
        tenant: caller.tenant,
    };
    let mut found = http.api.store.audit(&filter, page.cursor, page.asked()).await?;
    let next = page.cut(&mut found, |last| last.id);
    let response = reply::json(StatusCode::OK, &found.iter().map(Shown::from).collect::<Vec<_>>())?;
    Ok(PAGES.link_next(response, &filters.on("/audit"), page.limit, next))
}

#[derive(Serialize)]
struct Shown<'a> {
    id: i64,
    at: String,
    actor: String,
    action: &'static str,
    object: String,
    tenant: Option<&'a str>,
    detail: Option<&'a str>,
}

impl<'a> From<&'a AuditRecord> for Shown<'a> {
    fn from(record: &'a AuditRecord) -> Self {
        Self {
            id: record.id,
            at: record.at.to_string(),
            actor: record.act.by.to_string(),
            action: record.act.action.as_str(),
            object: record.object.to_string(),
            tenant: record.tenant.as_deref(),
            detail: record.act.detail.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::audit::{Act, Action};
    use crate::delivery::{SubscriptionId, Timestamp};
    use crate::http::openapi::tests::assert_matches;

    #[test]
    fn a_record_says_who_did_what_to_what_and_when() {
        let detail = Some("target_url, secret".to_owned());
        let record = AuditRecord {
            id: 12,
            at: Timestamp(1_700_000_000_000),
            act: Act { by: Actor::Key("3f9a1b2c4d".into()), action: Action::Changed, detail },
            object: Thing::Subscription(SubscriptionId(7)),
            tenant: Some("acme".into()),
        };
        let shown = json!(Shown::from(&record));
        assert_matches("AuditRecord", &shown);
        let expected = json!({
            "id": 12, "at": "2023-11-14T22:13:20.000Z", "actor": "key/3f9a1b2c4d", "action": "changed",
            "object": "subscription/7", "tenant": "acme", "detail": "target_url, secret"
        });
        assert_eq!(shown, expected);
        let nobodys = AuditRecord { tenant: None, act: Act::new(Actor::Hookpost, Action::Disabled), ..record };
        assert_matches("AuditRecord", &json!(Shown::from(&nobodys)));
    }
}
