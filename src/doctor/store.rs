//! The store, its clock, its keys.

use std::sync::Arc;
use std::time::Duration;

use super::Finding;
use super::machine;
use crate::access::KeyRing;
use crate::clock::Clock;
use crate::config::{Auth, Config};
use crate::delivery::Timestamp;
use crate::service;
use crate::store::{Examination, MAX_SKEW, PostgresStore, SESSIONS, Store, examine_sqlite};
use crate::vault::{KeyringError, PLAIN, Vault, check_keys};

/// A store that answers more slowly is far away: every commit waits for it.
const SLOW: Duration = Duration::from_millis(20);
const MASTER_KEY: &str = "master key";
const API_KEYS: &str = "API keys";
/// A watermark trails the clock; one ahead of it by more than this was written under another clock.
const MAX_AHEAD: Duration = Duration::from_secs(10);

/// What belongs to the store, worst things first to be found.
pub(super) async fn examine(config: &Config, clock: &Clock) -> Vec<Finding> {
    let examined = match &config.database_url {
        Some(url) => match PostgresStore::connect(url) {
            Ok(store) => store.examine(clock).await.map(Some).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        },
        None => examine_sqlite(&config.data_dir).map_err(|error| error.to_string()),
    };
    let mut findings = Vec::new();
    match examined {
        Err(error) => {
            findings.push(Finding::fail("store", format!("{}: {error}", config.store()), unreachable(config)));
        }
        Ok(None) => {
            let found = format!("there is no store in {} yet", config.data_dir.display());
            findings.push(Finding::ok("store", format!("{found}; `hookpost serve` or `hookpost migrate` makes it")));
            findings.extend(keys_of_a_new_store(config));
        }
        Ok(Some(examination)) => {
            findings.extend(judge(&examination, clock.wall()));
            match examination.schema {
                (0, _) => findings.extend(keys_of_a_new_store(config)),
                (applied, known) if applied >= known => findings.extend(keys(config, *clock).await),
                // It cannot be read before it is migrated.
                _ => {}
            }
        }
    }
    if config.database_url.is_none() {
        findings.push(machine::space(&config.data_dir));
    }
    findings
}

fn unreachable(config: &Config) -> String {
    match config.database_url {
        Some(_) => {
            "check that the server runs and that host, port, user, password and database in DATABASE_URL are right"
        }
        None => "check who owns the directory and its files, and that the disk is whole",
    }
    .to_owned()
}

/// What an examination means.
pub(super) fn judge(found: &Examination, now: Timestamp) -> Vec<Finding> {
    let mut findings = vec![answers(found), schema(found)];
    findings.extend(found.writable.as_ref().map(writes));
    findings.push(match &found.owner {
        Some(owner) => Finding::ok("store owner", format!("{owner} delivers from it; another process would stand by")),
        None => Finding::ok("store owner", "nobody delivers from it at the moment"),
    });
    findings.extend(found.undurable.iter().map(|why| {
        Finding::fail(
            "durability",
            why.clone(),
            "turn it on in postgresql.conf: a 202 promises that the event survives",
        )
    }));
    findings.extend(found.connections.map(|(open, most)| sessions(open, most)));
    findings.push(clock(found, now));
    findings
}

fn answers(found: &Examination) -> Finding {
    let text = format!("{} answers in {:.1} ms", found.product, found.answered_in.as_secs_f64() * 1e3);
    // The embedded one is opened for this, which takes its time.
    if found.clocks.is_some() && found.answered_in > SLOW {
        return Finding::warn("store", text, "bring it closer: every commit waits for it once");
    }
    Finding::ok("store", text)
}

fn schema(found: &Examination) -> Finding {
    let (applied, known) = found.schema;
    match applied {
        0 => Finding::warn("schema", "there is none yet", "run `hookpost migrate`; `hookpost serve` does it, too"),
        _ if applied < known => Finding::warn(
            "schema",
            format!("version {applied}, and this program brings {known}"),
            "run `hookpost migrate`; `hookpost serve` does it, too",
        ),
        _ if applied > known => Finding::fail(
            "schema",
            format!("version {applied}, and this program knows {known}"),
            "run the hookpost that migrated it, or a newer one",
        ),
        _ => Finding::ok("schema", format!("up to date, version {applied}")),
    }
}

fn writes(written: &Result<(), String>) -> Finding {
    match written {
        Ok(()) => Finding::ok("store writes", "a row could be written, and was taken back"),
        Err(error) => Finding::fail(
            "store writes",
            format!("nothing can be written: {error}"),
            "look for a full disk, a server that is a standby, and the rights of its user",
        ),
    }
}

fn sessions(open: i64, most: i64) -> Finding {
    let text = format!("{open} connections of at most {most} are open; a service takes up to {SESSIONS}");
    if open + SESSIONS > most {
        return Finding::warn("connections", text, "raise max_connections, or close what holds them");
    }
    Finding::ok("connections", text)
}

fn clock(found: &Examination, now: Timestamp) -> Finding {
    let sync = "synchronise the clocks (chrony, systemd-timesyncd)";
    if let Some((theirs, ours)) = found.clocks {
        let skew = theirs.since(ours).max(ours.since(theirs));
        if skew > MAX_SKEW {
            let which = if theirs > ours { "ahead of" } else { "behind" };
            let text = format!("the server's clock is {} {which} this machine's", humantime::format_duration(skew));
            return Finding::warn("clock", text, sync);
        }
    }
    let ahead = found.watermark.map_or(Duration::ZERO, |watermark| watermark.since(now));
    if ahead > MAX_AHEAD {
        let text = format!(
            "the store's newest entries are {} ahead of this machine's clock, which was set back",
            humantime::format_duration(ahead)
        );
        return Finding::warn("clock", text, format!("{sync}; new ids stay above those until it has caught up"));
    }
    Finding::ok("clock", if found.clocks.is_some() { "agrees with the server's" } else { "not behind what is stored" })
}

/// What `serve` would find once it has made the schema.
fn keys_of_a_new_store(config: &Config) -> [Finding; 2] {
    let vault = Vault::new(config.master_keys.clone(), config.dev);
    [judge_master_key(config, &vault, false), judge_api_keys(config, false)]
}

/// What is in the store of keys: those that seal, and those that callers show.
async fn keys(config: &Config, clock: Clock) -> Vec<Finding> {
    let store = match service::open_store(config) {
        Ok(store) => store,
        Err(error) => return vec![Finding::fail(MASTER_KEY, format!("{error:#}"), unreachable(config))],
    };
    let findings = vec![master_key(config, &*store).await, api_keys(config, &store, clock).await];
    store.close().await;
    findings
}

async fn master_key(config: &Config, store: &dyn Store) -> Finding {
    let vault = Vault::new(config.master_keys.clone(), config.dev);
    match check_keys(&vault, store).await {
        Err(error @ KeyringError::Store(_)) => Finding::fail(MASTER_KEY, error.to_string(), unreachable(config)),
        Err(error) => Finding::fail(MASTER_KEY, error.to_string(), "no process starts before that"),
        Ok(known) => judge_master_key(config, &vault, known.iter().any(|record| record.id == PLAIN)),
    }
}

fn judge_master_key(config: &Config, vault: &Vault, some_are_plain: bool) -> Finding {
    match vault.first() {
        Some(_) if some_are_plain && !config.dev => Finding::warn(
            MASTER_KEY,
            "there is one, and secrets from before there was one are not encrypted",
            "run `hookpost keys rotate-master`",
        ),
        Some(key) => Finding::ok(MASTER_KEY, format!("{} encrypts; none that the store needs is missing", key.id())),
        None if config.dev => Finding::ok(MASTER_KEY, "there is none: with --dev secrets are kept as they are"),
        None => Finding::warn(
            MASTER_KEY,
            "there is none, so subscriptions cannot have secrets",
            "set HOOKPOST_MASTER_KEY; `hookpost keys new-master` makes one",
        ),
    }
}

async fn api_keys(config: &Config, store: &Arc<dyn Store>, clock: Clock) -> Finding {
    match KeyRing::load(store.clone(), clock).await {
        Ok(keys) => judge_api_keys(config, keys.has_admin()),
        Err(error) => Finding::fail(API_KEYS, error.to_string(), unreachable(config)),
    }
}

fn judge_api_keys(config: &Config, has_admin: bool) -> Finding {
    match config.auth {
        Auth::Off => Finding::ok(API_KEYS, "not asked for: HOOKPOST_AUTH is off, or --dev"),
        Auth::Keys if has_admin => Finding::ok(API_KEYS, "there is an admin's"),
        Auth::Keys => Finding::fail(
            API_KEYS,
            "there is no admin's, and the service does not start without one",
            "make one with `hookpost keys create --admin`",
        ),
    }
}
