//! A subscription as it is kept in Redis: JSON. The only place that knows how it is written.
//!
//! The copy holds the subscription's secret as it is, because the actor that is started from it signs with it. When
//! secrets are encrypted at rest, this is where a copy's is, too.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::delivery::{DeliveryId, DisabledReason, Settings, Subscription, SubscriptionId, Timestamp};

#[derive(Serialize, Deserialize)]
struct Cached {
    id: SubscriptionId,
    tenant: String,
    version: i64,
    target_url: String,
    event_types: Vec<String>,
    secret: Option<String>,
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
    let cached = Cached {
        id: subscription.id,
        tenant: subscription.tenant.to_string(),
        version: subscription.version,
        target_url: subscription.target_url.to_string(),
        event_types: subscription.event_types.iter().map(ToString::to_string).collect(),
        secret: subscription.secret.as_ref().map(|secret| secret.expose_secret().to_owned()),
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
        tracing::debug!(subscription_id = %id, "what Redis has for this subscription is not a copy of it");
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
            secret: self.secret.map(SecretString::from),
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

    const ID: SubscriptionId = SubscriptionId(7);

    fn subscription() -> Subscription {
        Subscription {
            id: ID,
            tenant: "a tenant".into(),
            target_url: "https://receiver.example/hook".into(),
            event_types: vec!["order.*".parse().unwrap()],
            secret: Some(SecretString::from("a secret")),
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
    fn a_copy_is_the_subscription_secret_included() {
        let copy = decode(ID, &encode(&subscription())).unwrap();
        assert_eq!(copy.secret.as_ref().map(ExposeSecret::expose_secret), Some("a secret"));
        assert_eq!(encode(&copy), encode(&subscription()));
        assert_eq!(&*copy.tenant, "a tenant");
        assert_eq!(copy.settings, subscription().settings);
        assert_eq!(copy.drop_through, subscription().drop_through);
        assert_eq!(copy.failing_since, subscription().failing_since);
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
