//! `hookpost keys new-master` and `rotate-master`: the keys that secrets are sealed under.

use std::fmt::Write;

use anyhow::bail;
use secrecy::ExposeSecret;

use super::{print, runtime};
use crate::config::Config;
use crate::service;
use crate::telemetry;
use crate::vault::{MasterKey, PLAIN, Resealed};

pub(super) const HELP_ROTATE: &str = "\
To replace a master key, without a pause:
  1. restart every process with HOOKPOST_MASTER_KEY=old,new   all can open what either sealed
  2. restart every process with HOOKPOST_MASTER_KEY=new,old   what is new is sealed under `new`
  3. HOOKPOST_MASTER_KEY=new,old hookpost keys rotate-master  so is the rest; may be repeated
  4. restart every process with HOOKPOST_MASTER_KEY=new

Secrets from before there was a master key are sealed by it, too. Backups, and what a database has
not overwritten yet, may still hold those as they were: rotate the secrets themselves to be sure.

If a master key is lost, what is sealed under it is lost, and no process starts without it.
To go on, with the KEYID that the refusal says:
  1. HOOKPOST_MASTER_KEY=new hookpost keys rotate-master --give-up KEYID
  2. restart every process with HOOKPOST_MASTER_KEY=new
  3. give each subscription that it has disabled a new secret, tell its receiver, and enable it
It takes those secrets out of the store for good. They are of use to nobody, unless the key is found
after all.";

/// Prints a fresh key, which is kept nowhere.
pub(super) fn new_master() -> anyhow::Result<()> {
    print(&format!("{}\n", MasterKey::generate().to_base64().expose_secret()))
}

/// Seals everything under the first key, and gives up what is sealed under a lost one.
pub(super) fn rotate_master(config: &Config, give_up: Option<&str>) -> anyhow::Result<()> {
    telemetry::init(config)?;
    let mut progress = |count| tracing::info!(count, "subscriptions are sealed under the first master key");
    let resealed = runtime()?.block_on(service::rotate_master(config, give_up, &mut progress))?;
    print(&summary(&resealed))?;
    if let Some((id, error)) = resealed.unopened.first() {
        let count = resealed.unopened.len();
        bail!(
            "the secrets of {count} subscriptions or more do not open and were left as they are: give each a new one (first: \
             subscription {id}: {error})"
        );
    }
    Ok(())
}

fn summary(resealed: &Resealed) -> String {
    let mut text = format!("sealed the secrets of {} subscriptions under the first master key\n", resealed.count);
    if resealed.given_up > 0 {
        let _ = writeln!(
            text,
            "disabled {} subscriptions, whose secrets were sealed under the key that was given up: give each a new one and \
             enable it",
            resealed.given_up
        );
    }
    for id in &resealed.retired {
        let _ = match id.as_str() {
            PLAIN => writeln!(text, "no secret is unencrypted any more"),
            id => writeln!(text, "nothing is sealed under {id} any more: take it out of HOOKPOST_MASTER_KEY"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_was_done_and_which_keys_may_go() {
        let resealed = Resealed { count: 3, given_up: 2, retired: vec!["0a1b2c3d".to_owned()], ..Resealed::default() };
        let text = summary(&resealed);
        assert!(
            text.contains("of 3 subscriptions")
                && text.contains("disabled 2 subscriptions")
                && text.contains("under 0a1b2c3d any more"),
            "{text}"
        );
    }
}
