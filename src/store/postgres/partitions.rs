//! Partitions of the three big tables: which there are, making them, dropping them.
//!
//! Time is cut into cells of [`CELL`]; a cell's partition of a table is named after the second that it starts at
//! (`deliveries_1700006400`). There is no default partition: it would have to be searched for every new one and would
//! forbid dropping without a lock. An id that no partition is prepared for (a clock that jumped) gets its cell's
//! partition when the commit finds it missing.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio_postgres::{Client, Error};
use uuid::Uuid;

use crate::delivery::{DeliveryId, Timestamp};

/// A partition's width. Retention drops whole partitions, so a quarter of a day is what may be kept too long; more
/// and narrower ones would make every look-up that is not by delivery id visit more of them.
pub(super) const CELL: Duration = Duration::from_hours(6);
/// How far ahead partitions are made: whoever misses a day of janitor runs still finds them there.
const AHEAD: Duration = Duration::from_hours(30);
/// How far behind: a clock that is set back, and another node's that is slow.
const BEHIND: Duration = Duration::from_hours(2);
/// Held while partitions are made, so that two who miss the same one do not both make it. Any fixed number does.
const DDL_LOCK: &str = "SELECT pg_advisory_xact_lock(1215261800, 1)";

/// The partitioned tables, in the order in which a cell's partitions must be dropped: a delivery whose log is gone
/// would look like one that was never tried. Events come last, and have their [`FAN_OUT`].
const TABLES: [&str; 3] = ["deliveries", "delivery_logs", EVENTS];
const EVENTS: &str = "events";
/// How far the ids of an event's deliveries may be above its own. They are given together, so that it is milliseconds;
/// but they may be in the next cell, and the event must outlast what is unfinished there.
const FAN_OUT: Duration = Duration::from_hours(1);

/// A cell of time, counted from the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell(i64);

impl Cell {
    const SECS: i64 = CELL.as_secs().cast_signed();
    /// The one that ends where a `UUIDv7`'s 48 bits of milliseconds do.
    const LAST: Self = Self(((1 << 48) - 1) / 1000 / Self::SECS);

    pub fn at(time: Timestamp) -> Self {
        Self(time.0.max(0) / 1000 / Self::SECS).min(Self::LAST)
    }

    pub fn of(id: Uuid) -> Self {
        Self::at(DeliveryId(id).accepted_at())
    }

    fn range(cells: RangeInclusive<Self>) -> impl Iterator<Item = Self> {
        (cells.start().0..=cells.end().0).map(Self)
    }

    /// Those that must exist at `now`.
    pub fn needed_at(now: Timestamp) -> impl Iterator<Item = Self> {
        Self::range(Self::at(now - BEHIND)..=Self::at(now + AHEAD))
    }

    /// Its first millisecond.
    pub fn start(self) -> Timestamp {
        Timestamp(self.0 * Self::SECS * 1000)
    }

    /// The first millisecond after it.
    pub fn end(self) -> Timestamp {
        Self(self.0 + 1).start()
    }

    fn table(self, parent: &str) -> String {
        format!("{parent}_{}", self.0 * Self::SECS)
    }

    fn upper_bound(self) -> String {
        if self == Self::LAST { "MAXVALUE".to_owned() } else { format!("'{}'", DeliveryId::floor_at(self.end())) }
    }

    /// Makes the partition beside its table and then attaches it, which takes no lock that a read or a commit waits for.
    fn ddl(self, parent: &str) -> String {
        let (table, lower, upper) = (self.table(parent), DeliveryId::floor_at(self.start()), self.upper_bound());
        format!(
            "CREATE TABLE {table} (LIKE {parent} INCLUDING ALL);
             ALTER TABLE {parent} ATTACH PARTITION {table} FOR VALUES FROM ('{lower}') TO ({upper});"
        )
    }
}

/// One table of the three big ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Partition {
    pub cell: Cell,
    /// An index into [`TABLES`].
    table: usize,
    /// Whether it is being, or has been, detached: a drop that was interrupted.
    pub detachment: Detachment,
}

/// How far a partition is from being dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Detachment {
    /// Rows can be written to it and read from it.
    None,
    /// Interrupted between the two transactions of a concurrent detachment.
    Begun,
    /// A table of its own.
    Done,
}

impl Partition {
    /// Whether unfinished deliveries need what it holds: themselves, or their payloads. (Logs go after deliveries.)
    pub fn holds_work(&self) -> bool {
        TABLES[self.table] != "delivery_logs"
    }

    /// The end of the time in which deliveries that need it were accepted.
    pub fn end(&self) -> Timestamp {
        let end = self.cell.end();
        if TABLES[self.table] == EVENTS { end + FAN_OUT } else { end }
    }

    fn name(&self) -> String {
        self.cell.table(TABLES[self.table])
    }
}

/// All there are, in the order in which they may be dropped.
pub(super) async fn list(client: &Client) -> Result<Vec<Partition>, Error> {
    const SQL: &str = "SELECT c.relname::text, i.inhdetachpending
         FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
         WHERE c.relkind = 'r' AND c.relname ~ '^(deliveries|delivery_logs|events)_[0-9]+$'
           AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'deliveries'::regclass)";
    let mut found: Vec<_> = client
        .query(SQL, &[])
        .await?
        .iter()
        .filter_map(|row| {
            let detachment = match row.get(1) {
                Some(false) => Detachment::None,
                Some(true) => Detachment::Begun,
                None => Detachment::Done,
            };
            parse(row.get(0), detachment)
        })
        .collect();
    found.sort();
    Ok(found)
}

fn parse(name: &str, detachment: Detachment) -> Option<Partition> {
    let (parent, start) = name.rsplit_once('_')?;
    let start: i64 = start.parse().ok()?;
    let table = TABLES.iter().position(|table| *table == parent)?;
    (start % Cell::SECS == 0).then_some(Partition { cell: Cell(start / Cell::SECS), table, detachment })
}

/// Makes the partitions of these cells that are missing; how many that were.
pub(super) async fn ensure(client: &mut Client, cells: impl Iterator<Item = Cell>) -> Result<u64, Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(DDL_LOCK).await?;
    // One that is detached and not yet dropped is no place for a row: making it again fails until the janitor is done.
    let mut existing = list(transaction.client()).await?;
    existing.retain(|partition| partition.detachment == Detachment::None);
    let existing: BTreeSet<String> = existing.iter().map(Partition::name).collect();
    let mut created = 0;
    for cell in cells {
        for parent in TABLES.iter().filter(|parent| !existing.contains(&cell.table(parent))) {
            transaction.batch_execute(&cell.ddl(parent)).await?;
            created += 1;
        }
    }
    transaction.commit().await?;
    Ok(created)
}

/// Drops one. Detaching concurrently waits for the transactions that use the table, but makes none of them wait; the
/// drop then touches a table that nobody reads.
pub(super) async fn drop(client: &Client, partition: &Partition) -> Result<(), Error> {
    let (parent, name) = (TABLES[partition.table], partition.name());
    let detach = match partition.detachment {
        Detachment::None => "CONCURRENTLY",
        Detachment::Begun => "FINALIZE",
        Detachment::Done => return client.batch_execute(&format!("DROP TABLE {name}")).await,
    };
    client.batch_execute(&format!("ALTER TABLE {parent} DETACH PARTITION {name} {detach}")).await?;
    client.batch_execute(&format!("DROP TABLE {name}")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_holds_exactly_the_ids_between_its_bounds() {
        let cell = Cell::at(Timestamp(1_700_000_000_000));
        assert_eq!(Cell::of(DeliveryId::floor_at(cell.start()).0), cell);
        assert_eq!(Cell::of(DeliveryId::floor_at(cell.end()).predecessor().0), cell);
        assert_eq!(Cell::of(DeliveryId::floor_at(cell.end()).0), Cell(cell.0 + 1));
    }

    #[test]
    fn every_id_has_a_cell_even_the_last_one() {
        assert_eq!(Cell::of(Uuid::nil()), Cell(0));
        assert_eq!(Cell::of(Uuid::max()), Cell::LAST);
        assert_eq!(Cell::LAST.upper_bound(), "MAXVALUE");
    }

    #[test]
    fn room_is_made_for_a_day_ahead_and_for_a_clock_that_is_set_back_an_hour() {
        let now = Timestamp(1_700_000_000_000);
        let cells: Vec<_> = Cell::needed_at(now).collect();
        for time in [now - Duration::from_hours(1), now, now + Duration::from_hours(24)] {
            assert!(cells.contains(&Cell::at(time)), "{time}");
        }
    }

    #[test]
    fn a_table_with_another_name_is_no_partition() {
        assert!(parse("deliveries_1700006400", Detachment::None).is_some());
        assert_eq!(parse("deliveries_1700006401", Detachment::None), None);
        assert_eq!(parse("deliveries_old_1700006400", Detachment::None), None);
    }

    #[test]
    fn a_cells_deliveries_are_dropped_before_its_logs_and_older_cells_first() {
        let order = ["deliveries_1700006400", "delivery_logs_1700006400", "events_1700006400", "deliveries_1700028000"];
        let mut found = order.map(|name| parse(name, Detachment::None).expect("a partition"));
        found.reverse();
        found.sort();
        assert_eq!(found.map(|partition| partition.name()), order);
    }

    #[test]
    fn an_event_outlasts_its_deliveries_in_the_next_cell() {
        let [events, deliveries] = ["events_1700006400", "deliveries_1700006400"]
            .map(|name| parse(name, Detachment::None).expect("a partition"));
        assert_eq!(deliveries.end(), deliveries.cell.end());
        assert!(events.holds_work() && events.end() > deliveries.end());
    }
}
