//! Which master keys secrets are sealed under, and their replacement by others.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::reads::limit;
use super::rows::{self, SUBSCRIPTION};
use crate::delivery::{Sealed, Subscription, SubscriptionId};
use crate::store::{MasterKeyRecord, Reseal, Result, secrets};

/// An id is given by raising the number that AUTOINCREMENT goes on from.
pub(super) fn reserve_subscription_id(connection: &mut Connection) -> Result<SubscriptionId> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // SQLite makes the row at the first insert.
    transaction.execute(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'subscriptions', 0 \
         WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'subscriptions')",
        [],
    )?;
    const RAISE: &str = "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'subscriptions' RETURNING seq";
    let id = transaction.prepare_cached(RAISE)?.query_row([], |row| row.get(0))?;
    transaction.commit()?;
    Ok(SubscriptionId(id))
}

pub(super) fn subscriptions_with_secrets(
    connection: &mut Connection,
    after: Option<SubscriptionId>,
    max_rows: usize,
) -> Result<Vec<Subscription>> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT {SUBSCRIPTION} FROM subscriptions WHERE id > ?1 AND secrets IS NOT NULL ORDER BY id LIMIT ?2"
    ))?;
    let after = after.map_or(i64::MIN, |id| id.0);
    let found = select.query_map(params![after, limit(max_rows)], rows::subscription)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn reseal(connection: &mut Connection, changes: &[Reseal]) -> Result<Vec<Subscription>> {
    // What is replaced may be a secret in clear: it is overwritten, and not just given free.
    connection.pragma_update(None, "secure_delete", true)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut changed = Vec::new();
    {
        let mut update = transaction.prepare_cached(&format!(
            "UPDATE subscriptions SET secrets = ?3, version = version + 1 WHERE id = ?1 AND version = ?2 \
             RETURNING {SUBSCRIPTION}"
        ))?;
        for Reseal { id, version, secrets } in changes {
            let row = params![id.0, version, secrets::to_text(secrets)];
            changed.extend(update.query_row(row, rows::subscription).optional()?);
        }
    }
    transaction.commit()?;
    Ok(changed)
}

pub(super) fn list(connection: &mut Connection) -> Result<Vec<MasterKeyRecord>> {
    let mut select = connection.prepare_cached("SELECT id, proof FROM master_keys ORDER BY id")?;
    let record = |row: &rusqlite::Row<'_>| Ok(MasterKeyRecord { id: row.get(0)?, proof: Sealed::of(row.get(1)?) });
    Ok(select.query_map([], record)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn add(connection: &mut Connection, record: &MasterKeyRecord) -> Result<()> {
    const SQL: &str = "INSERT INTO master_keys (id, proof) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    connection.execute(SQL, params![record.id, record.proof.as_str()])?;
    Ok(())
}

/// Whether anything is sealed under the master key that goes by the expression.
macro_rules! sealed_under {
    ($id:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM subscriptions WHERE instr(secrets, CASE ",
            $id,
            " WHEN 'plain' THEN '\"plain:' ELSE '\"sealed:' || ",
            $id,
            " || ':' END) > 0)"
        )
    };
}

pub(super) fn is_sealed_under(connection: &mut Connection, key: &str) -> Result<bool> {
    Ok(connection.query_row(concat!("SELECT ", sealed_under!("?1")), [key], |row| row.get(0))?)
}

pub(super) fn forget(connection: &mut Connection, keep: &str) -> Result<Vec<String>> {
    const SQL: &str =
        concat!("DELETE FROM master_keys WHERE id <> ?1 AND NOT ", sealed_under!("master_keys.id"), " RETURNING id");
    let mut delete = connection.prepare_cached(SQL)?;
    Ok(delete.query_map([keep], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}
