//! A subscription as it is kept in Redis: JSON. The only place that knows how it is written.
//!
//! Secrets are in it as the store has them: sealed. What no master key protects does not leave the store: of a subscription
//! with such a secret, or with headers of its own, whose values may be credentials and are not sealed, only the version is
//! kept, which is no copy, and refuses older ones.

use serde::{Deserialize, Serialize};

use crate::delivery::{DeliveryId, DisabledReason, Secrets, Settings, Subscription, SubscriptionId, Timestamp};
use crate::vault::is_plain;

#[derive(Serialize, Deserialize)]
struct Cached {
    id: SubscriptionId,
    tenant: String,
    version: i64,
    target_url: String,
    event_types: Vec<String>,
    /// Has to be there, if only as null: a copy of before there were any has a secret elsewhere, and must not be taken for
    /// one that has none.
    #[serde(deserialize_with = "Option::deserialize")]
    secrets: Option<Secrets>,
    disabled: Option<DisabledReason>,
    /// A copy of before there were any has none, and is not believed: nor is then what it does not say of the next two.
    settings: Settings,
    drop_through: Option<DeliveryId>,
    /// As it was when the copy was made: it is saved without a new version, so a copy of this version may say what was saved
    /// up to a minute before.
    failing_since: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// Never empty.
pub(super) fn encode(subscription: &Subscription) -> String {
    let mut sealed = subscription.secrets.iter().flat_map(|secrets| secrets.sealed());
    if sealed.any(is_plain) || !subscription.settings.headers.is_empty() {
        return serde_json::json!({ "id": subscription.id, "version": subscription.version }).to_string();
    }
    let cached = Cached {
        id: subscription.id,
        tenant: subscription.tenant.to_string(),
        version: subscription.version,
        target_url: subscription.target_url.to_string(),
        event_types: subscription.event_types.iter().map(ToString::to_string).collect(),
        secrets: subscription.secrets.as_deref().cloned(),
        disabled: subscription.disabled,
        settings: Settings::clone(&subscription.settings),
        drop_through: subscription.drop_through,
        failing_since: subscription.failing_since,
        created_at: subscription.created_at,
        updated_at: subscription.updated_at,
    };
    serde_json::to_string(&cached).expect("strings and numbers can always be written as JSON")
}

/// `None` for what another version, or another hand, has written: the store knows better.
pub(super) fn decode(id: SubscriptionId, copy: &str) -> Option<Subscription> {
    let subscription = serde_json::from_str::<Cached>(copy).ok().and_then(Cached::into_subscription);
    if subscription.as_ref().is_none_or(|found| found.id != id) {
        tracing::debug!(subscription_id = id.0, "what Redis has for this subscription is not a copy of it");
        return None;
    }
    subscription
}

impl Cached {
    fn into_subscription(self) -> Option<Subscription> {
        Some(Subscription {
            id: self.id,
            tenant: self.tenant.into(),
            target_url: self.target_url.into(),
            event_types: self.event_types.iter().map(|pattern| pattern.parse().ok()).collect::<Option<_>>()?,
            secrets: self.secrets.map(Into::into),
            disabled: self.disabled,
            settings: self.settings.into(),
            drop_through: self.drop_through,
            failing_since: self.failing_since,
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Sealed;

    const ID: SubscriptionId = SubscriptionId(7);

    fn secrets(current: &str) -> Secrets {
        Secrets { current: Some(Sealed::of(current.to_owned())), ..Secrets::default() }
    }

    fn subscription() -> Subscription {
        Subscription {
            id: ID,
            tenant: "a tenant".into(),
            target_url: "https://receiver.example/hook".into(),
            event_types: vec!["order.*".parse().unwrap()],
            secrets: Some(secrets("sealed:0a1b2c3d:AAAA").into()),
            disabled: Some(DisabledReason::Gone),
            settings: Settings { max_concurrency: Some(5), ..Settings::default() }.into(),
            drop_through: Some(DeliveryId::floor_at(Timestamp(7))),
            failing_since: Some(Timestamp(8)),
            version: 3,
            created_at: Timestamp(1),
            updated_at: Timestamp(2),
        }
    }

    #[test]
    fn headers_do_not_leave_the_store() {
        let headers = [("authorization".to_owned(), "hunter2".to_owned())].into();
        let with_headers =
            Subscription { settings: Settings { headers, ..Settings::default() }.into(), ..subscription() };
        let kept = encode(&with_headers);
        assert!(!kept.contains("hunter2") && decode(ID, &kept).is_none(), "{kept}");
    }

    #[test]
    fn a_copy_is_the_subscription_sealed_secrets_included() {
        let copy = decode(ID, &encode(&subscription())).unwrap();
        let sealed = copy.secrets.as_ref().and_then(|secrets| secrets.current.as_ref());
        assert_eq!(sealed.map(Sealed::as_str), Some("sealed:0a1b2c3d:AAAA"));
        assert_eq!(encode(&copy), encode(&subscription()));
        assert_eq!(&*copy.tenant, "a tenant");
        assert_eq!(copy.settings, subscription().settings);
        assert_eq!(copy.drop_through, subscription().drop_through);
        assert_eq!(copy.failing_since, subscription().failing_since);
    }

    #[test]
    fn a_secret_that_is_not_sealed_is_not_in_redis_and_its_subscription_is_a_miss() {
        let plain = Subscription { secrets: Some(secrets("plain:hunter2").into()), ..subscription() };
        let kept = encode(&plain);
        assert_eq!(kept, r#"{"id":7,"version":3}"#);
        assert!(decode(ID, &kept).is_none());
    }

    /// As it was written when secrets were not sealed: taken for a copy without any, deliveries would not be signed.
    #[test]
    fn a_copy_that_does_not_say_what_secrets_there_are_is_not_believed() {
        let good = encode(&Subscription { secrets: None, ..subscription() });
        assert!(decode(ID, &good).is_some_and(|copy| copy.secrets.is_none()));
        let before = good.replace("\"secrets\":null", "\"secret\":\"hunter2\"");
        assert_ne!(before, good);
        assert!(decode(ID, &before).is_none());
    }

    /// As it was written before there were settings: it may have some by now, and a backlog that was given up.
    #[test]
    fn a_copy_without_settings_is_not_believed() {
        let good = encode(&subscription());
        let without = good.replace("\"settings\":{\"max_concurrency\":5},", "");
        assert_ne!(without, good);
        assert!(decode(ID, &without).is_none());
    }

    /// As it was written before there were tenants: whose it is cannot be guessed.
    #[test]
    fn a_copy_without_its_tenant_is_not_believed() {
        let good = encode(&subscription());
        let without = good.replace("\"tenant\":\"a tenant\",", "");
        assert_ne!(without, good);
        assert!(decode(ID, &without).is_none());
    }

    #[test]
    fn what_is_not_a_copy_of_this_subscription_is_none() {
        let good = encode(&subscription());
        assert!(decode(SubscriptionId(8), &good).is_none());
        assert!(decode(ID, &good.replace("order.*", "no pattern")).is_none());
        assert!(decode(ID, &good[1..]).is_none());
        assert!(decode(ID, "").is_none());
    }
}
