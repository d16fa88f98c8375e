//! Which master keys a store may be sealed under: the store keeps a row for each, with a proof that only that key opens. A
//! process that lacks one under which something is sealed does not start, instead of failing one delivery after the other.

use secrecy::ExposeSecret;

use super::{MasterKey, Owner, PLAIN_PREFIX, Purpose, Vault, sealed_under};
use crate::delivery::{Sealed, SubscriptionId};
use crate::store::{MasterKeyRecord, Store, StoreError};

/// In place of a key's name: secrets that no master key protects.
pub const PLAIN: &str = "plain";
/// What every proof says.
const PROOF: &str = "hookpost";
const NOBODY: Owner<'_> = Owner { tenant: "", subscription: SubscriptionId(0) };

/// Why a process must not work with a store.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// What is sealed under it could not be opened.
    #[error(
        "secrets in this store are sealed under the master key {0}, which is not among those in HOOKPOST_MASTER_KEY: add \
         it, at any place but the first if another one is to replace it; if it is lost, `hookpost keys rotate-master \
         --give-up {0}` goes on without what is sealed under it"
    )]
    Missing(String),
    /// Another key goes by the same name, or the row was changed.
    #[error("the master key {0} is not the one that secrets in this store are sealed under; its proof does not open")]
    Another(String),
    /// It could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks that this process can open whatever the store holds, and makes the key known that it seals with: before
/// anything is sealed with it.
///
/// # Errors
/// When a key is missing or another, or the store does not answer.
pub async fn admit(vault: &Vault, store: &dyn Store) -> Result<(), KeyringError> {
    let known = check_keys(vault, store).await?;
    if known.iter().any(|record| record.id == PLAIN) && !vault.dev {
        warn_of_plain(vault);
    }
    let own = match vault.first() {
        Some(key) => record(key),
        None if vault.dev => MasterKeyRecord { id: PLAIN.to_owned(), proof: plain_proof() },
        None => return Ok(()),
    };
    if !known.iter().any(|record| record.id == own.id) {
        store.add_master_key(&own).await?;
    }
    Ok(())
}

/// Checks the same and changes nothing; what the store may be sealed under.
///
/// # Errors
/// As [`admit`].
pub async fn check_keys(vault: &Vault, store: &dyn Store) -> Result<Vec<MasterKeyRecord>, KeyringError> {
    let known = store.master_keys().await?;
    for record in &known {
        match check(vault, record) {
            // Made known by a process that sealed nothing: nobody needs it. The row stays, for that process may seal yet.
            Err(KeyringError::Missing(id)) if !store.is_sealed_under(&id).await? => {}
            checked => checked?,
        }
    }
    Ok(known)
}

fn check(vault: &Vault, record: &MasterKeyRecord) -> Result<(), KeyringError> {
    if record.id != PLAIN && vault.key(&record.id).is_none() {
        return Err(KeyringError::Missing(record.id.clone()));
    }
    match vault.open(&record.proof, Purpose::Proof, NOBODY) {
        Ok(proof) if proof.expose_secret() == PROOF => Ok(()),
        _ => Err(KeyringError::Another(record.id.clone())),
    }
}

fn record(key: &MasterKey) -> MasterKeyRecord {
    let proof = sealed_under(key, &PROOF.into(), Purpose::Proof, NOBODY);
    MasterKeyRecord { id: key.id().to_owned(), proof }
}

/// As the migration writes it for a store that has secrets from before.
fn plain_proof() -> Sealed {
    Sealed::of(format!("{PLAIN_PREFIX}{PROOF}"))
}

fn warn_of_plain(vault: &Vault) {
    let remedy = match vault.first() {
        Some(_) => "when every process has this HOOKPOST_MASTER_KEY, run `hookpost keys rotate-master`",
        None => {
            "set HOOKPOST_MASTER_KEY (`hookpost keys new-master` makes one), restart every process with it, and then run \
             `hookpost keys rotate-master`"
        }
    };
    tracing::warn!(remedy, "secrets in this store are not encrypted");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_opens_for_its_own_key_only() {
        let (key, other) = (MasterKey::generate(), MasterKey::generate());
        let vault = |keys: &[&MasterKey]| Vault::new(keys.iter().copied().cloned().collect(), false);
        assert!(check(&vault(&[&other, &key]), &record(&key)).is_ok());
        let missing = check(&vault(&[&other]), &record(&key)).unwrap_err();
        assert!(matches!(&missing, KeyringError::Missing(id) if id == key.id()), "{missing}");
        let forged = MasterKeyRecord { id: key.id().to_owned(), ..record(&other) };
        assert!(matches!(check(&vault(&[&key]), &forged), Err(KeyringError::Another(_))));
    }

    #[test]
    fn secrets_that_are_not_sealed_need_no_key() {
        let plain = MasterKeyRecord { id: PLAIN.to_owned(), proof: plain_proof() };
        assert!(check(&Vault::new(Vec::new(), false), &plain).is_ok());
    }
}
