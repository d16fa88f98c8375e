//! Who calls, and what they may do. Pure: how a caller proves who they are is the business of the modules below it.

mod key;
mod ring;
mod shown;
mod tenant;
mod token;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use key::{ApiKey, KeyRefused, KeyRequest, NewApiKey};
pub use ring::{KeyRing, MAX_KEYS};
pub use shown::KeyShown;
pub use tenant::{TENANT_EXPECTED, is_tenant};
pub use token::{KeyHash, Prefix, Token};

/// What a key was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// May send events, and nothing else.
    Producer,
    /// May look at everything but keys and secrets, and change nothing.
    Reader,
    /// Sees and manages the subscriptions, deliveries and logs of its tenant.
    Tenant,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Send events.
    Ingest,
    /// Look at subscriptions, deliveries, logs, figures.
    Read,
    /// Create, change and delete subscriptions.
    Manage,
    /// Make and revoke keys, have a secret shown.
    Administer,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Producer, Self::Reader, Self::Tenant];

    /// As it is written, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Producer => "producer",
            Self::Reader => "reader",
            Self::Tenant => "tenant",
        }
    }

    /// Whether it includes a permission.
    pub fn grants(self, permission: Permission) -> bool {
        match self {
            Self::Admin => true,
            Self::Producer => permission == Permission::Ingest,
            Self::Reader => permission == Permission::Read,
            Self::Tenant => matches!(permission, Permission::Read | Permission::Manage),
        }
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            format!("{text:?} is no role: these are {all}")
        })
    }
}

/// Who did something, as the audit has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A service that asks nobody who they are.
    Anonymous,
    /// Who holds this key, named by its prefix.
    Key(Arc<str>),
    /// The command line, on a machine that reaches the store.
    CommandLine,
    /// Hookpost itself, as when a receiver is gone.
    Hookpost,
}

/// As it is stored and shown: `anonymous`, `key/3f9a…`, `command_line`, `hookpost`.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Key(prefix) => write!(f, "key/{prefix}"),
            Self::CommandLine => f.write_str("command_line"),
            Self::Hookpost => f.write_str("hookpost"),
        }
    }
}

impl FromStr for Actor {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "anonymous" => Ok(Self::Anonymous),
            "command_line" => Ok(Self::CommandLine),
            "hookpost" => Ok(Self::Hookpost),
            other => match other.strip_prefix("key/") {
                Some(prefix) if !prefix.is_empty() => Ok(Self::Key(prefix.into())),
                _ => Err(format!("unknown actor: {other:?}")),
            },
        }
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    /// For the audit.
    pub actor: Actor,
    /// What they may do.
    pub role: Role,
    /// If they are confined to a tenant, which. What belongs to another does not exist for them.
    pub tenant: Option<Arc<str>>,
}

impl Caller {
    /// A caller who was not asked who they are.
    pub fn anonymous() -> Self {
        Self { actor: Actor::Anonymous, role: Role::Admin, tenant: None }
    }

    /// Whether what belongs to this tenant exists for them.
    pub fn sees(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_grants_what_it_is_for_and_no_more() {
        use Permission::{Administer, Ingest, Manage, Read};
        let granted = |role: Role| [Ingest, Read, Manage, Administer].map(|permission| role.grants(permission));
        assert_eq!(granted(Role::Admin), [true, true, true, true]);
        assert_eq!(granted(Role::Producer), [true, false, false, false]);
        assert_eq!(granted(Role::Reader), [false, true, false, false]);
        assert_eq!(granted(Role::Tenant), [false, true, true, false]);
    }

    #[test]
    fn a_role_is_read_as_it_is_written() {
        assert!(Role::ALL.into_iter().all(|role| role.as_str().parse() == Ok(role)));
        assert!("Admin".parse::<Role>().is_err() && "".parse::<Role>().is_err());
    }

    #[test]
    fn an_actor_is_read_back_as_it_was_written() {
        for actor in [Actor::Anonymous, Actor::Key("3f9a".into()), Actor::CommandLine, Actor::Hookpost] {
            assert_eq!(actor.to_string().parse(), Ok(actor));
        }
        assert!("root".parse::<Actor>().unwrap_err().contains("root"));
    }

    #[test]
    fn whoever_is_confined_to_a_tenant_sees_no_other() {
        let confined = Caller { tenant: Some("acme".into()), ..Caller::anonymous() };
        assert!(confined.sees("acme") && !confined.sees("acm") && !confined.sees("default"));
        assert!(Caller::anonymous().sees("acme"));
    }
}
