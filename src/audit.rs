//! Who did what, to what, and when: what the audit keeps. Pure; the store writes a record in the transaction of the change
//! that it tells of, so that neither is there without the other.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::access::Actor;
use crate::delivery::{SubscriptionId, Timestamp};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A subscription came to be.
    Created,
    /// Some of its fields changed.
    Changed,
    /// It was disabled: by hand, or because its receiver is gone or fails.
    Disabled,
    /// It was enabled again, or its backlog was dropped.
    Enabled,
    /// It was deleted.
    Deleted,
    /// It got another secret.
    SecretRotated,
    /// Its secret was shown.
    SecretShown,
    /// One of its deliveries was sent again.
    Resent,
    /// Its deliveries of a range of time are sent again.
    Replayed,
    /// That was stopped.
    ReplayCancelled,
    /// An API key was made.
    KeyCreated,
    /// An API key was revoked.
    KeyRevoked,
    /// All secrets were encrypted again, with the first master key.
    MasterKeyRotated,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Created,
        Self::Changed,
        Self::Disabled,
        Self::Enabled,
        Self::Deleted,
        Self::SecretRotated,
        Self::SecretShown,
        Self::Resent,
        Self::Replayed,
        Self::ReplayCancelled,
        Self::KeyCreated,
        Self::KeyRevoked,
        Self::MasterKeyRotated,
    ];

    /// The word stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::Deleted => "deleted",
            Self::SecretRotated => "secret_rotated",
            Self::SecretShown => "secret_shown",
            Self::Resent => "resent",
            Self::Replayed => "replayed",
            Self::ReplayCancelled => "replay_cancelled",
            Self::KeyCreated => "key_created",
            Self::KeyRevoked => "key_revoked",
            Self::MasterKeyRotated => "master_key_rotated",
        }
    }
}

impl FromStr for Action {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|action| action.as_str() == word);
        found.ok_or_else(|| format!("unknown action: {word:?}"))
    }
}

/// What something was done to, as it is stored and shown: `subscription/7`, `key/3f9a…`, `master_key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    /// A subscription.
    Subscription(SubscriptionId),
    /// An API key, by its prefix.
    Key(Arc<str>),
    /// The master keys.
    MasterKey,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscription(id) => write!(f, "subscription/{id}"),
            Self::Key(prefix) => write!(f, "key/{prefix}"),
            Self::MasterKey => f.write_str("master_key"),
        }
    }
}

impl FromStr for Thing {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("unknown object: {text:?}");
        match text.split_once('/') {
            // A sign is what `parse` would take, too.
            Some(("subscription", id)) if id.bytes().all(|byte| byte.is_ascii_digit()) => {
                id.parse().map(|id| Self::Subscription(SubscriptionId(id))).map_err(|_| unknown())
            }
            Some(("key", prefix)) if !prefix.is_empty() => Ok(Self::Key(prefix.into())),
            None if text == "master_key" => Ok(Self::MasterKey),
            _ => Err(unknown()),
        }
    }
}

/// A deed, as whoever does it hands it to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Who.
    pub by: Actor,
    /// What.
    pub action: Action,
    /// In words, for people: the names of the fields that changed, a reason. Never a value that may be secret.
    pub detail: Option<String>,
}

impl Act {
    /// A deed without details.
    pub fn new(by: Actor, action: Action) -> Self {
        Self { by, action, detail: None }
    }
}

/// A record of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Given by the store, rising.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who did what.
    pub act: Act,
    /// To what.
    pub object: Thing,
    /// Whose that was; `None` if it was nobody's in particular.
    pub tenant: Option<Arc<str>>,
}

/// Which records are asked for: those that have everything that is named.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Done to this.
    pub object: Option<Thing>,
    /// Done by this one.
    pub by: Option<Actor>,
    /// Of this tenant.
    pub tenant: Option<Arc<str>>,
}

impl AuditFilter {
    /// As conditions on columns, so that each store looks up what is named by its index.
    pub fn conditions(&self) -> Vec<(&'static str, String)> {
        let object = self.object.as_ref().map(|object| ("object", object.to_string()));
        let by = self.by.as_ref().map(|by| ("actor", by.to_string()));
        let tenant = self.tenant.as_ref().map(|tenant| ("tenant", tenant.to_string()));
        [object, by, tenant].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_back_and_anything_else_is_named() {
        for action in Action::ALL {
            assert_eq!(action.as_str().parse(), Ok(action));
        }
        for object in [Thing::Subscription(SubscriptionId(7)), Thing::Key("ab".into()), Thing::MasterKey] {
            assert_eq!(object.to_string().parse(), Ok(object));
        }
        for text in
            ["", "subscription", "subscription/x", "subscription/", "subscription/+7", "key/", "master_key/", "x/1"]
        {
            assert!(text.parse::<Thing>().unwrap_err().contains(&format!("{text:?}")));
        }
        assert!("burnt".parse::<Action>().unwrap_err().contains("burnt"));
    }
}
