//! The janitor's side of the store: ends what outlived its retention, drops the partitions that only hold what ended.

use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::super::ids::IdSource;
use super::super::{JanitorCounts, Result};
use super::error::{gave_way, store_error};
use super::owner::Writer;
use super::partitions::{self, Detachment};
use super::reads::log_floor;
use super::recovery::read_watermark;
use super::subscriptions::limit_of;
use crate::delivery::{DeliveryId, Outcome, Timestamp};

/// Unfinished deliveries below `$1`, oldest first: those that wait for a retry, and those of existing subscriptions that
/// were never tried. The latter can only be after the watermark, or after the position of a subscription that is
/// behind, so that the rest of a partition need not be read. (A deleted subscription's deliveries ended with it.)
const UNFINISHED: &str = "
     (SELECT delivery_id FROM retries WHERE delivery_id < $1 ORDER BY delivery_id LIMIT $4)
     UNION
     (SELECT d.id FROM deliveries d
      WHERE d.id > $2 AND d.id < $1
          AND (SELECT true FROM delivery_logs l WHERE l.delivery_id = d.id AND l.id >= $3 LIMIT 1) IS NULL
          AND (SELECT true FROM subscriptions s WHERE s.id = d.subscription_id)
      ORDER BY d.id LIMIT $4)
     UNION
     (SELECT behind.id FROM positions p JOIN subscriptions s ON s.id = p.subscription_id CROSS JOIN LATERAL (
          SELECT d.id FROM deliveries d
          WHERE d.subscription_id = p.subscription_id AND d.id > p.position AND d.id < $1
              AND (SELECT true FROM delivery_logs l WHERE l.delivery_id = d.id LIMIT 1) IS NULL
          ORDER BY d.subscription_id, d.id LIMIT $4) behind
      WHERE p.position < $1 ORDER BY behind.id LIMIT $4)
     ORDER BY 1 LIMIT $4";

/// Looks again at what was found, because an attempt may have been logged since, and this runs between commits. A retry
/// that was written after its subscription was deleted goes without a word.
const END: &str = "WITH doomed AS (
         SELECT e.log_id, d.id, d.subscription_id, coalesce(r.attempt_number, 1) AS attempt_number,
             s.target_url
         FROM unnest($1::uuid[], $2::uuid[]) AS e (id, log_id)
         JOIN deliveries d ON d.id = e.id
         LEFT JOIN retries r ON r.delivery_id = d.id
         JOIN subscriptions s ON s.id = d.subscription_id
         WHERE d.id = ANY($1) AND (r.delivery_id IS NOT NULL
             OR (SELECT true FROM delivery_logs l WHERE l.delivery_id = d.id LIMIT 1) IS NULL)
     ), settled AS (
         DELETE FROM retries WHERE delivery_id = ANY($1)
     )
     INSERT INTO delivery_logs (id, delivery_id, subscription_id, timestamp, attempt_number, duration_ms, outcome,
         target_url, error_details, last_of_commit)
     SELECT log_id, id, subscription_id, $3, attempt_number, 0, $4, target_url, $5, true FROM doomed";

/// What a delivery's last log row says then.
const EXPIRED: &str = "expired: it was still undelivered at the end of its retention";

/// Up to `limit` unfinished deliveries accepted before `cutoff`.
pub(super) async fn unfinished(client: &Client, cutoff: Timestamp, limit: usize) -> Result<Vec<Uuid>, Error> {
    let watermark = read_watermark(client).await?.unwrap_or(DeliveryId::MIN);
    let cutoff = DeliveryId::floor_at(cutoff);
    let params = (cutoff.0, watermark.0, log_floor(watermark), limit_of(limit));
    let found = client.query(UNFINISHED, &[&params.0, &params.1, &params.2, &params.3]).await?;
    Ok(found.iter().map(|row| row.get(0)).collect())
}

/// Ends these deliveries, on the connection that commits: whoever lost the right to commit cannot do it.
pub(super) async fn end(writer: &Writer, deliveries: &[Uuid], now: Timestamp) -> Result<u64, Error> {
    let newest = deliveries.iter().max().copied();
    let mut ids = IdSource::above(newest);
    let logs: Vec<Uuid> = deliveries.iter().map(|_| ids.next(now)).collect();
    writer.session.client.execute(END, &[&deliveries, &logs, &now.0, &Outcome::Failure.code(), &EXPIRED]).await
}

/// Up to `$2` deleted subscriptions of before `$1`, and tenants that have none (any more, as of the row's lock).
const PRUNE_DELETED: &str = "WITH empty AS (
         DELETE FROM tenants WHERE subscriptions = 0 AND tenant = ANY(ARRAY(
             SELECT tenant FROM tenants WHERE subscriptions = 0 LIMIT $2))
     )
     DELETE FROM deleted_subscriptions WHERE id = ANY(ARRAY(
         SELECT id FROM deleted_subscriptions WHERE deleted_at < $1 ORDER BY deleted_at LIMIT $2))";

/// Drops what is older than `cutoff`: partitions, and then what is remembered for the sake of their deliveries.
pub(super) async fn prune(client: &Client, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
    let mut counts = JanitorCounts::default();
    let oldest = drop_partitions(client, cutoff, &mut counts).await?;
    let before = oldest.map_or(cutoff, |oldest| oldest.min(cutoff));
    let forgotten = client.execute(PRUNE_DELETED, &[&before.0, &limit_of(limit)]).await.map_err(store_error)?;
    Ok(JanitorCounts { rows_deleted: forgotten, more: forgotten >= limit as u64, ..counts })
}

/// Drops the partitions that end before `cutoff`, oldest first, up to the first that holds unfinished work. A lock that
/// is not to be had at once is left to the next run. Returns where the oldest begins that is left.
async fn drop_partitions(client: &Client, cutoff: Timestamp, counts: &mut JanitorCounts) -> Result<Option<Timestamp>> {
    for partition in partitions::list(client).await.map_err(store_error)? {
        let begins = partition.cell.start();
        if partition.end() > cutoff {
            return Ok(Some(begins));
        }
        let in_use = partition.detachment == Detachment::None && partition.holds_work();
        if in_use && !unfinished(client, partition.end(), 1).await.map_err(store_error)?.is_empty() {
            return Ok(Some(begins));
        }
        match partitions::drop(client, &partition).await {
            Ok(()) => counts.partitions_dropped += 1,
            Err(error) if gave_way(&error) => {
                tracing::info!(%error, "a partition is in use; it will be dropped in a later run");
                return Ok(Some(begins));
            }
            Err(error) => return Err(store_error(error)),
        }
    }
    Ok(None)
}
