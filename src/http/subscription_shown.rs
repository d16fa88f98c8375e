//! A subscription as it is shown. No secret and no value of a header comes out; what does can be sent back as it is.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::delivery::{DisabledReason, EventTypePattern, Settings, Subscription, SubscriptionId};

/// Settings stand beside the other fields, as they are sent, and only those that are set.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    id: SubscriptionId,
    tenant: &'a str,
    target_url: &'a str,
    event_type: Vec<&'a str>,
    signed: bool,
    ed25519: bool,
    #[serde(flatten)]
    settings: Settings,
    /// In place of the headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    header_names: Vec<&'a str>,
    disabled: Option<DisabledReason>,
    failing_since: Option<String>,
    created_at: String,
    updated_at: String,
}

impl<'a> From<&'a Subscription> for Shown<'a> {
    fn from(subscription: &'a Subscription) -> Self {
        let settings = &*subscription.settings;
        let secrets = subscription.secrets.as_deref();
        Self {
            id: subscription.id,
            tenant: &subscription.tenant,
            target_url: &subscription.target_url,
            event_type: subscription.event_types.iter().map(EventTypePattern::as_str).collect(),
            signed: secrets.is_some_and(|secrets| secrets.current.is_some()),
            ed25519: secrets.is_some_and(|secrets| secrets.ed25519.is_some()),
            settings: Settings { headers: BTreeMap::new(), ..settings.clone() },
            header_names: settings.headers.keys().map(String::as_str).collect(),
            disabled: subscription.disabled,
            failing_since: subscription.failing_since.map(|since| since.to_string()),
            created_at: subscription.created_at.to_string(),
            updated_at: subscription.updated_at.to_string(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::delivery::{BreakerSettings, Order, RateLimit, Sealed, Secrets, Timestamp};
    use crate::http::openapi::tests::assert_matches;

    /// One with a secret and no settings.
    pub(in crate::http) fn subscription() -> Subscription {
        let current = Some(Sealed::of("plain:hunter2".to_owned()));
        Subscription {
            tenant: crate::delivery::DEFAULT_TENANT.into(),
            id: SubscriptionId(1),
            target_url: "https://a.example/".into(),
            event_types: vec!["order.*".parse().unwrap()],
            secrets: Some(Secrets { current, ..Secrets::default() }.into()),
            disabled: None,
            settings: std::sync::Arc::default(),
            drop_through: None,
            failing_since: None,
            version: 3,
            created_at: Timestamp(1_700_000_000_000),
            updated_at: Timestamp(1_700_000_000_001),
        }
    }

    #[test]
    fn a_subscription_is_shown_without_its_secret() {
        let shown = json!(Shown::from(&subscription()));
        assert_matches("Subscription", &shown);
        assert!(!shown.to_string().contains("hunter2"));
        assert_eq!((&shown["signed"], &shown["ed25519"]), (&json!(true), &json!(false)));
        assert_eq!(shown["tenant"], "default");
        assert_eq!(shown["event_type"], json!(["order.*"]));
        assert_eq!(shown["updated_at"], "2023-11-14T22:13:20.001Z");
        assert!(shown.get("max_concurrency").is_none() && shown.get("header_names").is_none());
    }

    #[test]
    fn settings_are_shown_as_they_are_sent_and_of_headers_the_names_only() {
        let settings = Settings {
            max_concurrency: Some(4),
            latency_target_ms: Some(100),
            rate_limit: Some(RateLimit { per_second: 10, burst: None }),
            retry_schedule_s: Some(vec![]),
            attempt_timeout_ms: Some(100),
            order: Some(Order::OrderingKey),
            max_backlog: Some(10),
            disable_after_s: Some(60),
            breaker: Some(BreakerSettings { wait_ms: Some(100), ..BreakerSettings::default() }),
            method: Some("PUT".to_owned()),
            headers: [("authorization".to_owned(), "hunter2".to_owned())].into(),
        };
        let shown = json!(Shown::from(&Subscription { settings: settings.clone().into(), ..subscription() }));
        assert_matches("Subscription", &shown);
        assert!(!shown.to_string().contains("hunter2") && shown.get("headers").is_none());
        assert_eq!(shown["header_names"], json!(["authorization"]));
        for (name, value) in json!(settings).as_object().unwrap().iter().filter(|(name, _)| *name != "headers") {
            assert_eq!(&shown[name], value, "{name}");
        }
    }

    #[test]
    fn a_disabled_subscription_says_why() {
        for (reason, word) in
            [(DisabledReason::Gone, "gone"), (DisabledReason::Failing, "failing"), (DisabledReason::ByHand, "by_hand")]
        {
            let since = Some(Timestamp(1_700_000_000_000));
            let disabled = Subscription { disabled: Some(reason), failing_since: since, ..subscription() };
            let shown = json!(Shown::from(&disabled));
            assert_matches("Subscription", &shown);
            assert_eq!(
                (&shown["disabled"], &shown["failing_since"]),
                (&json!(word), &json!("2023-11-14T22:13:20.000Z"))
            );
        }
    }
}
