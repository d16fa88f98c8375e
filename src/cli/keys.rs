//! `hookpost keys`: makes, lists and revokes API keys in the store itself. A key goes to standard output, alone, so that a
//! script can take it; all that is said about it goes to standard error.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use secrecy::ExposeSecret;

use super::{finish, master, print, runtime, with_config};
use crate::access::{Actor, ApiKey, KeyRefused, KeyRequest, KeyShown, MAX_KEYS, Prefix, Role};
use crate::clock::Clock;
use crate::config::{Config, Flags};
use crate::delivery::Timestamp;
use crate::service;
use crate::store::Store;

pub(super) const HELP: &str = "\
Roles:
  admin      everything, keys included
  producer   sends events, and nothing else
  reader     looks at everything but keys and secrets, and changes nothing
  tenant     sees and manages the subscriptions, deliveries and logs of its tenant

Examples:
  hookpost keys create --admin                                      the first key of a store
  KEY=$(hookpost keys create --name shop --role producer)           into a variable of the shell
  hookpost keys create --name acme --role tenant --tenant acme --expires-in 90d
  hookpost keys list
  hookpost keys revoke 4f9KqZ0aTb                                   by its prefix, or by all of it

A key is sent as `Authorization: Bearer hp_...`. It is shown once; only a hash of it is stored.
A change counts on every running service within a second.";

const HELP_CREATE: &str = "\
Examples:
  hookpost keys create --admin
  KEY=$(hookpost keys create --name shop --role producer --expires-in 90d)
  hookpost keys create --name acme-portal --role tenant --tenant acme

The key alone goes to standard output; what is said about it goes to standard error.";

/// What an admin's key is called if nobody says.
const ADMIN_NAME: &str = "admin";
/// Keys in one answer of the store.
const PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key and print it, once
    #[command(after_help = HELP_CREATE)]
    Create(Create),
    /// List keys, the oldest first; those that are dead stay listed for a while
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: Flags,
    },
    /// End a key: within a second no service takes it any more
    Revoke {
        /// The ten characters between `hp_` and the second `_`, or the whole key
        #[arg(value_name = "PREFIX")]
        key: String,
        #[command(flatten)]
        flags: Flags,
    },
    /// Print a fresh master key, for HOOKPOST_MASTER_KEY
    NewMaster,
    /// Seal all secrets under the first master key, so that the others can go; also beside a running service
    #[command(after_help = master::HELP_ROTATE)]
    RotateMaster {
        /// A master key that is lost: take away what is sealed under it, and disable those subscriptions
        #[arg(long, value_name = "KEYID")]
        give_up: Option<String>,
        #[command(flatten)]
        flags: Flags,
    },
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// An admin's: the same as --role admin, with a name if none is given
    #[arg(long, conflicts_with = "role")]
    admin: bool,
    /// What the key is for
    #[arg(long, required_unless_present = "admin")]
    name: Option<String>,
    /// admin, producer, reader or tenant
    #[arg(long, required_unless_present = "admin")]
    role: Option<Role>,
    /// The one tenant that the key's holder sees; needed for the role tenant
    #[arg(long)]
    tenant: Option<String>,
    /// How long the key is good for, such as 90d or 12h [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires_in: Option<Duration>,
    /// As a JSON object, the key in it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

pub(super) fn run(command: &Command) -> ExitCode {
    match command {
        Command::Create(create) => match create.request().check().first() {
            None => in_store(&create.flags, async |store, now, place| make(store, create, now, place).await),
            Some(refused) => {
                let _ = writeln!(io::stderr(), "error: {}", refusal(refused));
                ExitCode::from(2)
            }
        },
        Command::List { json, flags } => in_store(flags, async |store, now, _| list(store, *json, now).await),
        Command::Revoke { key, flags } => match prefix_of(key) {
            Some(prefix) => in_store(flags, async |store, now, _| revoke(store, prefix, now).await),
            None => {
                // What was given may be most of a key: it is not repeated.
                let _ = writeln!(
                    io::stderr(),
                    "error: expected a key or its prefix, the ten characters between hp_ and the second _; \
                     `hookpost keys list` shows them"
                );
                ExitCode::from(2)
            }
        },
        Command::NewMaster => finish(master::new_master()),
        Command::RotateMaster { give_up, flags } => {
            with_config(flags, |config| finish(master::rotate_master(&config, give_up.as_deref())))
        }
    }
}

fn in_store(flags: &Flags, work: impl AsyncFnOnce(&Arc<dyn Store>, Timestamp, &str) -> anyhow::Result<()>) -> ExitCode {
    let in_store = async |config: Config| {
        let store = service::open_store(&config)?;
        let now = Clock::start().wall();
        store.migrate(now).await.context("the store could not be prepared")?;
        let done = work(&store, now, &config.store()).await;
        store.close().await;
        done
    };
    with_config(flags, |config| finish(runtime().and_then(|runtime| runtime.block_on(in_store(config)))))
}

impl Create {
    fn request(&self) -> KeyRequest {
        let role = self.role.unwrap_or(Role::Admin);
        let name = self.name.clone().unwrap_or_else(|| ADMIN_NAME.to_owned());
        KeyRequest { name, role, tenant: self.tenant.clone(), expires_in: self.expires_in }
    }
}

fn refusal(refused: &KeyRefused) -> String {
    let flag = refused.field.replace('_', "-");
    format!("--{flag} is {}; expected {}", refused.found, refused.expected)
}

/// `place` says which store it is: a key of another one opens nothing.
async fn make(store: &Arc<dyn Store>, create: &Create, now: Timestamp, place: &str) -> anyhow::Result<()> {
    let (text, new) = create.request().issue(now);
    let created =
        store.create_api_key(new, MAX_KEYS, &Actor::CommandLine, now).await.context("the key could not be stored")?;
    let Some(key) = created else {
        bail!("this store holds {MAX_KEYS} live keys, the most that it may; revoke some that are not used any more");
    };
    if create.json {
        let mut shown = json(&key);
        shown["key"] = text.expose_secret().into();
        return print(&format!("{shown:#}\n"));
    }
    print(&format!("{}\n", text.expose_secret()))?;
    let _ = writeln!(
        io::stderr(),
        "This is key {} ({}), {}, made in the store that is configured here ({place}). It is shown this once; send it as `Authorization: Bearer <key>`. A service that runs takes it within a second.",
        key.prefix,
        key.name,
        what_it_is(&key, now)
    );
    Ok(())
}

/// By their prefixes.
async fn all(store: &Arc<dyn Store>) -> anyhow::Result<Vec<ApiKey>> {
    let mut keys: Vec<ApiKey> = Vec::new();
    loop {
        let after = keys.last().map(|key| key.prefix);
        let page = store.api_keys(after, PAGE).await.context("the keys could not be read")?;
        let complete = page.len() < PAGE;
        keys.extend(page);
        if complete {
            return Ok(keys);
        }
    }
}

async fn list(store: &Arc<dyn Store>, json_wanted: bool, now: Timestamp) -> anyhow::Result<()> {
    let mut keys = all(store).await?;
    keys.sort_by_key(|key| (key.created_at, key.prefix));
    if json_wanted {
        let array: Vec<_> = keys.iter().map(json).collect();
        return print(&format!("{:#}\n", serde_json::Value::from(array)));
    }
    if keys.is_empty() {
        let _ = writeln!(io::stderr(), "There are no keys. `hookpost keys create --admin` makes the first.");
    }
    let lines =
        keys.iter().map(|key| format!("{}  {}  {}, {}\n", key.prefix, key.created_at, key.name, what_it_is(key, now)));
    print(&lines.collect::<String>())
}

/// Who has a key that leaked has the key, and not only its prefix.
fn prefix_of(text: &str) -> Option<Prefix> {
    let named = text.strip_prefix("hp_").and_then(|rest| rest.split_once('_')).map_or(text, |(prefix, _)| prefix);
    named.parse().ok()
}

async fn revoke(store: &Arc<dyn Store>, prefix: Prefix, now: Timestamp) -> anyhow::Result<()> {
    match store.revoke_api_key(prefix, &Actor::CommandLine, now).await.context("the key could not be revoked")? {
        Some(key) => {
            let _ = writeln!(io::stderr(), "Key {prefix} ({}) is revoked.", key.name);
            // It is revoked, whether or not the others can be looked at.
            let others = if key.role == Role::Admin { all(store).await.ok() } else { None };
            let is_admins = |key: &ApiKey| key.role == Role::Admin && key.is_live(now);
            if others.is_some_and(|keys| !keys.iter().any(is_admins)) {
                let _ = writeln!(
                    io::stderr(),
                    "No admin's key is left, and a service that asks for keys does not start without one: \
                     `hookpost keys create --admin` makes one."
                );
            }
            Ok(())
        }
        None => bail!("there is no key {prefix}; `hookpost keys list` shows which there are"),
    }
}

/// `of role tenant for acme, until 2027-01-01T00:00:00.000Z`
fn what_it_is(key: &ApiKey, now: Timestamp) -> String {
    let tenant = key.tenant.as_ref().map(|tenant| format!(" for {tenant}")).unwrap_or_default();
    let end = match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!(", revoked {at}"),
        (None, Some(at)) if key.is_live(now) => format!(", until {at}"),
        (None, Some(at)) => format!(", expired {at}"),
        (None, None) => String::new(),
    };
    format!("of role {}{tenant}{end}", key.role.as_str())
}

fn json(key: &ApiKey) -> serde_json::Value {
    serde_json::json!(KeyShown::from(key))
}
