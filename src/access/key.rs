//! A key as it is asked for, as it is made, and as it is kept. Pure.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::{Actor, Caller, KeyHash, Prefix, Role, TENANT_EXPECTED, Token, is_tenant};
use crate::audit::{Act, Action};
use crate::delivery::Timestamp;

/// A few words.
const MAX_NAME_CHARS: usize = 100;
/// A minute to ten years: for longer, leave the expiry out.
const LIFETIME_S: RangeInclusive<u64> = 60..=10 * 365 * 24 * 3600;

/// What is asked for when a key is made.
#[derive(Clone, Debug)]
pub struct KeyRequest {
    /// For people: what the key is used for.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The one tenant that its holder is confined to, if they are.
    pub tenant: Option<String>,
    /// From now; `None` for ever.
    pub expires_in: Option<Duration>,
}

/// A field that cannot be as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRefused {
    /// `name`, `tenant`, `expires_in`.
    pub field: &'static str,
    /// What was asked for.
    pub found: String,
    /// What could have been.
    pub expected: &'static str,
}

impl KeyRequest {
    /// All that is wrong with it.
    pub fn check(&self) -> Vec<KeyRefused> {
        [self.check_name(), self.check_tenant(), self.check_expiry()].into_iter().flatten().collect()
    }

    fn check_name(&self) -> Option<KeyRefused> {
        let legal = (1..=MAX_NAME_CHARS).contains(&self.name.chars().count())
            && !self.name.chars().any(char::is_control)
            && self.name.trim() == self.name;
        let found = format!("{:?}", self.name.chars().take(MAX_NAME_CHARS).collect::<String>());
        let expected = "1 to 100 printable characters that say what the key is for, without space at their ends";
        (!legal).then_some(KeyRefused { field: "name", found, expected })
    }

    fn check_tenant(&self) -> Option<KeyRefused> {
        let found = self.tenant.as_ref().map_or("nothing".to_owned(), |tenant| format!("{tenant:?}"));
        let expected = match (self.role, &self.tenant) {
            (Role::Tenant, None) => "the tenant that the key is for: a key of role tenant has one",
            (Role::Admin, Some(_)) => "nothing: an admin is confined to no tenant; choose the role tenant instead",
            (_, Some(tenant)) if !is_tenant(tenant) => TENANT_EXPECTED,
            _ => return None,
        };
        Some(KeyRefused { field: "tenant", found, expected })
    }

    fn check_expiry(&self) -> Option<KeyRefused> {
        let lifetime = self.expires_in?;
        let legal = LIFETIME_S.contains(&lifetime.as_secs());
        let found = humantime::format_duration(lifetime).to_string();
        let expected = "a minute to ten years, or nothing for a key that does not expire";
        (!legal).then_some(KeyRefused { field: "expires_in", found, expected })
    }

    /// Makes the key: its text, to be shown once, and what is stored.
    pub fn issue(self, now: Timestamp) -> (SecretString, NewApiKey) {
        let (text, Token { prefix, hash }) = Token::generate();
        let Self { name, role, tenant, expires_in } = self;
        let expires_at = expires_in.map(|lifetime| now + lifetime);
        (text, NewApiKey { prefix, name, role, tenant, hash, expires_at })
    }
}

/// A key to be stored.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// Names it.
    pub prefix: Prefix,
    /// For people.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The one tenant that its holder is confined to, if they are.
    pub tenant: Option<String>,
    /// Of its secret.
    pub hash: KeyHash,
    /// From then on it is refused.
    pub expires_at: Option<Timestamp>,
}

impl NewApiKey {
    /// What the audit says of its making.
    pub fn created(&self, by: Actor) -> Act {
        let detail = format!("{}: {}", self.role.as_str(), self.name);
        Act { detail: Some(detail), ..Act::new(by, Action::KeyCreated) }
    }
}

/// A key as it is stored.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Names it.
    pub prefix: Prefix,
    /// For people.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The one tenant that its holder is confined to, if they are.
    pub tenant: Option<Arc<str>>,
    /// Of its secret.
    pub hash: KeyHash,
    /// When it was made.
    pub created_at: Timestamp,
    /// From then on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Since then it is refused.
    pub revoked_at: Option<Timestamp>,
    /// Of its last change. All changes of all keys of a store are numbered in the order of their commits.
    pub revision: i64,
}

impl ApiKey {
    /// Whether it opens anything at that time.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| now < at)
    }

    /// Who holds it.
    pub fn caller(&self) -> Caller {
        Caller { actor: Actor::Key(self.prefix.as_str().into()), role: self.role, tenant: self.tenant.clone() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn request(role: Role, tenant: Option<&str>) -> KeyRequest {
        KeyRequest { name: "billing".to_owned(), role, tenant: tenant.map(str::to_owned), expires_in: None }
    }

    fn refused(request: &KeyRequest) -> Vec<&'static str> {
        request.check().iter().map(|refused| refused.field).collect()
    }

    #[test]
    fn a_tenants_key_has_a_tenant_an_admins_has_none_and_others_may_have_one() {
        for (role, tenant) in [
            (Role::Tenant, Some("acme")),
            (Role::Admin, None),
            (Role::Producer, None),
            (Role::Producer, Some("acme")),
            (Role::Reader, Some("acme")),
        ] {
            assert_eq!(refused(&request(role, tenant)), [""; 0], "{role:?} {tenant:?}");
        }
        for (role, tenant) in [(Role::Tenant, None), (Role::Admin, Some("acme")), (Role::Reader, Some("a b"))] {
            assert_eq!(refused(&request(role, tenant)), ["tenant"], "{role:?} {tenant:?}");
        }
    }

    #[test]
    fn a_name_and_a_lifetime_have_limits_with_edges() {
        let named = |name: &str| refused(&KeyRequest { name: name.to_owned(), ..request(Role::Reader, None) });
        assert!(named("é").is_empty() && named(&"x".repeat(MAX_NAME_CHARS)).is_empty());
        for name in ["", " x", "a\nb", &"x".repeat(MAX_NAME_CHARS + 1)] {
            assert_eq!(named(name), ["name"], "{name:?}");
        }
        let lasting = |s| {
            refused(&KeyRequest { expires_in: Some(Duration::from_secs(s)), ..request(Role::Reader, None) }).is_empty()
        };
        assert!(lasting(*LIFETIME_S.start()) && lasting(*LIFETIME_S.end()));
        assert!(!lasting(LIFETIME_S.start() - 1) && !lasting(LIFETIME_S.end() + 1));
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let wrong = KeyRequest { name: String::new(), expires_in: Some(Duration::ZERO), ..request(Role::Tenant, None) };
        assert_eq!(refused(&wrong), ["name", "tenant", "expires_in"]);
    }

    #[test]
    fn a_key_is_dead_from_its_expiry_or_its_revocation_on() {
        let now = Timestamp(1_000_000);
        let (_, new) =
            KeyRequest { expires_in: Some(Duration::from_secs(60)), ..request(Role::Reader, Some("acme")) }.issue(now);
        let key = stored(new, 1, now);
        assert!(key.is_live(now) && key.is_live(Timestamp(1_059_999)) && !key.is_live(Timestamp(1_060_000)));
        assert!(!ApiKey { revoked_at: Some(now), expires_at: None, ..key.clone() }.is_live(now));
        let caller = key.caller();
        assert_eq!((caller.role, caller.tenant.as_deref()), (Role::Reader, Some("acme")));
        assert_eq!(caller.actor, Actor::Key(key.prefix.as_str().into()));
    }

    /// As a store keeps it.
    pub fn stored(new: NewApiKey, revision: i64, created_at: Timestamp) -> ApiKey {
        let NewApiKey { prefix, name, role, tenant, hash, expires_at } = new;
        let tenant = tenant.map(Arc::from);
        ApiKey { prefix, name, role, tenant, hash, created_at, expires_at, revoked_at: None, revision }
    }
}
