//! What a starting owner reads: where everything stood. No payloads.

use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::super::Recovery;
use super::reads::log_floor;
use crate::delivery::{DeliveryId, SubscriptionId};

/// Deliveries and logs that are newer than the watermark, matched in one pass over each; then what is left by
/// subscription.
const UNTRIED: &str = "SELECT DISTINCT d.subscription_id FROM deliveries d
     WHERE d.id > $1
         AND NOT EXISTS (SELECT FROM delivery_logs l WHERE l.delivery_id = d.id AND l.delivery_id > $1 AND l.id >= $2)
         AND EXISTS (SELECT FROM subscriptions s WHERE s.id = d.subscription_id)
         AND NOT EXISTS (SELECT FROM positions p WHERE p.subscription_id = d.subscription_id)
     ORDER BY 1";
/// The last entry of the newest partition's index that has any; the watermark, which outlives what is pruned; and the positions,
/// which may be ids that were given and never stored.
const NEWEST: &str = "SELECT greatest((SELECT id FROM deliveries ORDER BY id DESC LIMIT 1),
     (SELECT id FROM events ORDER BY id DESC LIMIT 1),
     (SELECT id FROM delivery_logs WHERE last_of_commit ORDER BY id DESC LIMIT 1),
     (SELECT position FROM positions ORDER BY position DESC LIMIT 1),
     (SELECT id FROM watermark WHERE id > $1))";

pub(super) async fn read_watermark(client: &Client) -> Result<Option<DeliveryId>, Error> {
    Ok(client.query_opt("SELECT id FROM watermark", &[]).await?.map(|row| DeliveryId(row.get(0))))
}

pub(super) async fn read(client: &Client) -> Result<Recovery, Error> {
    let watermark = read_watermark(client).await?;
    let positions = client.query("SELECT subscription_id, position FROM positions ORDER BY 1", &[]).await?;
    let after = watermark.unwrap_or(DeliveryId::MIN);
    let untried = client.query(UNTRIED, &[&after.0, &log_floor(after)]).await?;
    let newest_id: Option<Uuid> = client.query_one(NEWEST, &[&DeliveryId::MIN.0]).await?.get(0);
    Ok(Recovery {
        watermark,
        positions: positions.iter().map(|row| (SubscriptionId(row.get(0)), DeliveryId(row.get(1)))).collect(),
        untried: untried.iter().map(|row| SubscriptionId(row.get(0))).collect(),
        newest_id,
    })
}
