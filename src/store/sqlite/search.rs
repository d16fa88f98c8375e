//! One step of a search: rows of the index that fits, newest or oldest first, and what is known of each.
//!
//! Deliveries are in the order of their ids by `seq` as well, because one owner gives ids in the order of commits.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Statement, Transaction, params};

use super::reads::{self, limit};
use super::rows::{self, DELIVERY, blob};
use super::status::{STRETCH_BITS, STRETCHES_OF_A_READ};
use crate::delivery::{Delivery, DeliveryId, DeliveryState, Outcome, SubscriptionId, Timestamp};
use crate::store::search::Source;
use crate::store::{FoundDelivery, Result, Search, Step};

/// The columns of a [`Candidate`]. The payload is between, and not read: but for resends the last column is NULL.
const CANDIDATE: &str = "id, subscription_id, event_type, event, resend_of";

const LOWEST_SEQ: &str = "SELECT seq FROM deliveries WHERE id >= ?1 ORDER BY id LIMIT 1";
const HIGHEST_SEQ: &str = "SELECT seq FROM deliveries WHERE id <= ?1 ORDER BY id DESC LIMIT 1";
const TENANT: &str = "SELECT (SELECT tenant FROM subscriptions WHERE id = ?1), \
     (SELECT tenant FROM deleted_subscriptions WHERE id = ?1)";
const LAST_OUTCOME: &str = "SELECT outcome FROM delivery_logs WHERE delivery_id = ?1 ORDER BY id DESC LIMIT 1";
// Nothing up to here is untried: as recovery has it.
const FLOOR: &str =
    "SELECT min(delivery_id) FROM (SELECT delivery_id FROM watermark UNION ALL SELECT delivery_id FROM positions)";
const FLOOR_OF: &str = "SELECT coalesce((SELECT delivery_id FROM positions WHERE subscription_id = ?1), \
     (SELECT delivery_id FROM watermark))";

pub(super) const EVER: &str = "SELECT id FROM subscriptions WHERE tenant = ?1 \
     UNION ALL SELECT id FROM deleted_subscriptions WHERE tenant = ?1 LIMIT ?2";

/// How the rows of a source are read.
pub(super) fn source_sql(source: Source, oldest_first: bool) -> String {
    let order = if oldest_first { "ASC" } else { "DESC" };
    match source {
        Source::All => {
            format!("SELECT {CANDIDATE} FROM deliveries WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq {order} LIMIT ?3")
        }
        // One stretch of it: see the log.
        Source::Of(_) => format!(
            "SELECT {CANDIDATE} FROM deliveries WHERE seq >> {STRETCH_BITS} = ?4 AND subscription_id = ?5 \
             AND seq >= ?1 AND seq <= ?2 ORDER BY seq {order} LIMIT ?3"
        ),
        Source::Failed => format!(
            "SELECT delivery_id FROM delivery_logs INDEXED BY delivery_logs_failed WHERE outcome = 2 \
             AND delivery_id >= ?1 AND delivery_id <= ?2 ORDER BY delivery_id {order} LIMIT ?3"
        ),
        Source::FailedOf(_) => format!(
            "SELECT delivery_id FROM delivery_logs INDEXED BY delivery_logs_failed_by_subscription WHERE outcome = 2 \
             AND subscription_id = ?4 AND delivery_id >= ?1 AND delivery_id <= ?2 ORDER BY delivery_id {order} LIMIT ?3"
        ),
        Source::Retries => format!(
            "SELECT delivery_id FROM retries WHERE delivery_id >= ?1 AND delivery_id <= ?2 \
             ORDER BY delivery_id {order} LIMIT ?3"
        ),
    }
}

struct Candidate {
    id: DeliveryId,
    subscription_id: SubscriptionId,
    event_type: Option<Arc<str>>,
    event: Option<i64>,
    resend_of: Option<DeliveryId>,
}

impl Candidate {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: rows::delivery_id(row, 0)?,
            subscription_id: rows::subscription_id(row, 1)?,
            event_type: row.get(2)?,
            event: row.get(3)?,
            resend_of: rows::some_delivery_id(row, 4)?,
        })
    }
}

/// Whose a subscription is, or was, and whether it still exists.
type Whose = (Option<Arc<str>>, bool);

/// What one step knows already.
struct Looking<'a> {
    snapshot: &'a Transaction<'a>,
    search: &'a Search,
    whose: HashMap<SubscriptionId, Whose>,
    step: Step,
}

pub(super) fn step(connection: &mut Connection, mut search: Search, most: usize) -> Result<Step> {
    let snapshot = connection.transaction()?;
    if search.is_of_untried() {
        search.first = search.first.max(floor(&snapshot, search.subscription_id)?.successor());
    }
    let mut looking = Looking { snapshot: &snapshot, search: &search, whose: HashMap::new(), step: Step::default() };
    // How far it would have to look for what is another tenant's says something of that one.
    if let (Some(tenant), Some(id)) = (&search.tenant, search.subscription_id)
        && looking.whose(id)?.0.as_ref() != Some(tenant)
    {
        return Ok(Step::default());
    }
    match search.source() {
        Source::All => looking.through_all(most)?,
        Source::Of(id) => looking.through_stretches(id, most)?,
        source => looking.through_ids(source, most)?,
    }
    Ok(looking.step)
}

/// Nothing with a lower id is untried.
fn floor(snapshot: &Transaction<'_>, id: Option<SubscriptionId>) -> rusqlite::Result<DeliveryId> {
    let read = |row: &Row<'_>| rows::some_delivery_id(row, 0);
    let found = match id {
        Some(id) => snapshot.prepare_cached(FLOOR_OF)?.query_row([id.0], read)?,
        None => match reads::watermark(snapshot)? {
            Some(_) => snapshot.prepare_cached(FLOOR)?.query_row([], read)?,
            None => None,
        },
    };
    Ok(found.unwrap_or(DeliveryId::MIN))
}

impl Looking<'_> {
    /// The lowest and the highest `seq` of what is looked for, if anything can be there.
    fn bounds(&self) -> rusqlite::Result<Option<(i64, i64)>> {
        let seq = |sql, id: DeliveryId| {
            self.snapshot.prepare_cached(sql)?.query_row([blob(&id.0)], |row| row.get::<_, i64>(0)).optional()
        };
        let (low, high) = (seq(LOWEST_SEQ, self.search.first)?, seq(HIGHEST_SEQ, self.search.last)?);
        Ok(low.zip(high).filter(|(low, high)| low <= high))
    }

    fn through_all(&mut self, most: usize) -> Result<()> {
        let Some((low, high)) = self.bounds()? else { return Ok(()) };
        let mut statement = self.snapshot.prepare_cached(&source_sql(Source::All, self.search.oldest_first))?;
        let last = self.consider_rows(&mut statement, params![low, high, limit(most)])?;
        self.stopped_at(last, most);
        Ok(())
    }

    /// From stretch to stretch, so many of them that the snapshot stays short.
    fn through_stretches(&mut self, id: SubscriptionId, most: usize) -> Result<()> {
        let Some((low, high)) = self.bounds()? else { return Ok(()) };
        let source = Source::Of(id);
        let mut statement = self.snapshot.prepare_cached(&source_sql(source, self.search.oldest_first))?;
        let (first, last) = (low >> STRETCH_BITS, high >> STRETCH_BITS);
        let up = self.search.oldest_first;
        let count = (last - first + 1).min(STRETCHES_OF_A_READ);
        for n in 0..count {
            let stretch = if up { first + n } else { last - n };
            let wanted = most - self.step.examined;
            let reached = self.consider_rows(&mut statement, params![low, high, limit(wanted), stretch, id.0])?;
            if self.step.examined >= most {
                self.step.reached = reached;
                return Ok(());
            }
        }
        if count < last - first + 1 {
            let edge = if up { ((first + count) << STRETCH_BITS) - 1 } else { (last - count + 1) << STRETCH_BITS };
            self.step.reached = self.id_at(edge, up)?;
        }
        Ok(())
    }

    /// The last id that was looked at, when that was everything up to (or from) this `seq`.
    fn id_at(&self, edge: i64, up: bool) -> rusqlite::Result<Option<DeliveryId>> {
        let sql = if up {
            "SELECT id FROM deliveries WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1"
        } else {
            "SELECT id FROM deliveries WHERE seq >= ?1 ORDER BY seq LIMIT 1"
        };
        self.snapshot.prepare_cached(sql)?.query_row([edge], |row| rows::delivery_id(row, 0)).optional()
    }

    fn through_ids(&mut self, source: Source, most: usize) -> Result<()> {
        let mut statement = self.snapshot.prepare_cached(&source_sql(source, self.search.oldest_first))?;
        let (first, last, rows) = (blob(&self.search.first.0), blob(&self.search.last.0), limit(most));
        let read = |row: &Row<'_>| rows::delivery_id(row, 0);
        let ids: Vec<_> = match source {
            Source::FailedOf(id) => statement.query_map(params![first, last, rows, id.0], read)?.collect(),
            _ => statement.query_map(params![first, last, rows], read)?.collect::<rusqlite::Result<Vec<_>>>(),
        }?;
        let sql = format!("SELECT {CANDIDATE} FROM deliveries WHERE id = ?1");
        let mut select = self.snapshot.prepare_cached(&sql)?;
        self.step.examined = ids.len();
        self.stopped_at(ids.last().copied(), most);
        let mut before = None;
        for id in ids {
            // Of one that has failed more than once, as when the janitor ended it under an attempt.
            if before.replace(id) != Some(id)
                && let Some(candidate) = select.query_row([blob(&id.0)], Candidate::read).optional()?
            {
                self.consider(candidate)?;
            }
        }
        Ok(())
    }

    /// There is more behind it only if as many rows were looked at as may be.
    fn stopped_at(&mut self, last: Option<DeliveryId>, most: usize) {
        self.step.reached = last.filter(|_| self.step.examined >= most);
    }

    /// The last that was looked at.
    fn consider_rows(
        &mut self,
        statement: &mut Statement<'_>,
        params: &[&dyn rusqlite::ToSql],
    ) -> Result<Option<DeliveryId>> {
        let mut last = None;
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            let candidate = Candidate::read(row)?;
            self.step.examined += 1;
            last = Some(candidate.id);
            self.consider(candidate)?;
        }
        Ok(last)
    }

    /// What needs no look-up is asked first.
    fn consider(&mut self, candidate: Candidate) -> Result<()> {
        let Candidate { id, subscription_id, event_type, event, resend_of } = candidate;
        let other_type = self.search.event_type.is_some() && self.search.event_type != event_type;
        if other_type || self.search.firsts_only && resend_of.is_some() {
            return Ok(());
        }
        let (tenant, subscription_exists) = self.whose(subscription_id)?;
        let foreign = self.search.tenant.is_some() && self.search.tenant != tenant;
        let not_cancelled = self.search.states == [DeliveryState::Cancelled] && subscription_exists;
        if foreign || not_cancelled {
            return Ok(());
        }
        let mut found = FoundDelivery {
            id,
            subscription_id,
            tenant,
            event_type,
            event_id: None,
            resend_of,
            last_outcome: self.last_outcome(id)?,
            next_attempt_at: None,
            subscription_exists,
        };
        if self.search.wants(&found) {
            found.next_attempt_at = self.next_attempt_at(id)?;
            if let Some(event) = event {
                let mut select = self.snapshot.prepare_cached("SELECT id FROM events WHERE seq = ?1")?;
                found.event_id = select.query_row([event], |row| rows::event_id(row, 0)).optional()?.flatten();
            }
            self.step.found.push(found);
        }
        Ok(())
    }

    fn whose(&mut self, id: SubscriptionId) -> rusqlite::Result<Whose> {
        if let Some(known) = self.whose.get(&id) {
            return Ok(known.clone());
        }
        let (now, before): (Option<Arc<str>>, Option<Arc<str>>) =
            self.snapshot.prepare_cached(TENANT)?.query_row([id.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let exists = now.is_some();
        let whose = (now.or(before), exists);
        self.whose.insert(id, whose.clone());
        Ok(whose)
    }

    fn last_outcome(&self, id: DeliveryId) -> rusqlite::Result<Option<Outcome>> {
        let mut select = self.snapshot.prepare_cached(LAST_OUTCOME)?;
        select.query_row([blob(&id.0)], |row| rows::outcome(0, row.get(0)?)).optional()
    }

    fn next_attempt_at(&self, id: DeliveryId) -> rusqlite::Result<Option<Timestamp>> {
        let mut select = self.snapshot.prepare_cached("SELECT next_attempt_at FROM retries WHERE delivery_id = ?1")?;
        select.query_row([blob(&id.0)], |row| row.get(0).map(Timestamp)).optional()
    }
}

pub(super) fn subscriptions_ever(
    connection: &mut Connection,
    tenant: &str,
    most: usize,
) -> Result<Option<Vec<SubscriptionId>>> {
    let mut select = connection.prepare_cached(EVER)?;
    let found = select.query_map(params![tenant, limit(most + 1)], |row| rows::subscription_id(row, 0))?;
    let found: Vec<_> = found.collect::<rusqlite::Result<_>>()?;
    Ok(Some(found).filter(|found| found.len() <= most))
}

pub(super) fn deliveries(
    connection: &mut Connection,
    mut ids: Vec<DeliveryId>,
    max_bytes: usize,
) -> Result<Vec<Delivery>> {
    ids.sort_unstable();
    let snapshot = connection.transaction()?;
    let sql = format!("SELECT {DELIVERY} FROM deliveries d LEFT JOIN events e ON e.seq = d.event WHERE d.id = ?1");
    let mut select = snapshot.prepare_cached(&sql)?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    for id in ids {
        let Some(delivery) = select.query_row([blob(&id.0)], rows::delivery).optional()? else { continue };
        bytes += delivery.payload.len();
        if bytes > max_bytes && !found.is_empty() {
            break;
        }
        found.push(delivery);
    }
    Ok(found)
}
