//! One batch, one transaction, one round trip: `BEGIN`, a statement a table and `COMMIT` are sent together.
//!
//! A batch may be one that is stored already, in part or in whole, because its reply was lost. That is rare, so it is
//! found out by a unique violation and the batch is then committed once more by statements that pass over such rows.

use futures_util::future::{BoxFuture, join_all};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use super::super::Batch;
use super::columns::{Deliveries, Logs, Marks, Retries, again};
use super::events::Events;
use super::keys::Keys;
use super::replays::{Deeds, Steps};

/// Everything that a commit can consist of, prepared once a connection.
pub(super) struct Statements {
    begin: Statement,
    commit: Statement,
    fresh: Inserts,
    again: Inserts,
    retries: Statement,
    settle: Statement,
    position: Statement,
    catch_up: Statement,
    watermark: Statement,
    deeds: Statement,
    progress: Statement,
}

/// The appends.
struct Inserts {
    keys: Statement,
    events: Statement,
    deliveries: Statement,
    wide_deliveries: Statement,
    logs: Statement,
}

impl Inserts {
    async fn fresh(client: &Client) -> Result<Self, Error> {
        Ok(Self {
            keys: client.prepare(Keys::SQL).await?,
            events: client.prepare(Events::SQL).await?,
            deliveries: client.prepare(Deliveries::SQL).await?,
            wide_deliveries: client.prepare(Deliveries::SQL_WIDE).await?,
            logs: client.prepare(Logs::SQL).await?,
        })
    }

    async fn again(client: &Client) -> Result<Self, Error> {
        Ok(Self {
            keys: client.prepare(&Keys::sql_again()).await?,
            events: client.prepare(&again(Events::SQL)).await?,
            deliveries: client.prepare(&again(Deliveries::SQL)).await?,
            wide_deliveries: client.prepare(&again(Deliveries::SQL_WIDE)).await?,
            logs: client.prepare(&again(Logs::SQL)).await?,
        })
    }
}

type Step<'a> = BoxFuture<'a, Result<u64, Error>>;

impl Statements {
    pub async fn prepare(client: &Client) -> Result<Self, Error> {
        Ok(Self {
            begin: client.prepare("BEGIN").await?,
            commit: client.prepare("COMMIT").await?,
            fresh: Inserts::fresh(client).await?,
            again: Inserts::again(client).await?,
            retries: client.prepare(Retries::SQL).await?,
            settle: client.prepare(Marks::SETTLE).await?,
            position: client.prepare(Marks::POSITION).await?,
            catch_up: client.prepare(Marks::CATCH_UP).await?,
            watermark: client.prepare(Marks::WATERMARK).await?,
            deeds: client.prepare(Deeds::SQL).await?,
            progress: client.prepare(Steps::SQL).await?,
        })
    }

    /// Commits the batch, also if some of it is stored already.
    pub async fn commit(&self, client: &Client, batch: &Batch) -> Result<(), Error> {
        match self.transaction(client, &self.fresh, batch).await {
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                self.transaction(client, &self.again, batch).await
            }
            done => done,
        }
    }

    /// After a failed statement the server answers `COMMIT` with success and rolls back: the
    /// transaction is durable only if every step succeeded, and the first that did not is the cause.
    ///
    /// No statement can fail before it is sent: a batch's size is bounded far below what a message can hold.
    ///
    /// The futures must be polled in order, and are: a statement is sent at its first poll. All of them are sent within
    /// one poll, so nothing else that uses the connection can come between.
    async fn transaction(&self, client: &Client, inserts: &Inserts, batch: &Batch) -> Result<(), Error> {
        let (deliveries, logs) = (Deliveries::new(&batch.deliveries), Logs::new(&batch.logs));
        let (keys, events) = (Keys::new(&batch.keys), Events::new(&batch.events));
        let (retries, marks) = (Retries::new(&batch.retries), Marks::new(batch));
        let (deeds, progress) = (Deeds::new(&batch.deeds), Steps::new(&batch.progress));
        let step = |statement, params| -> Step<'_> { Box::pin(execute(client, statement, params)) };
        let mut steps = vec![step(&self.begin, vec![])];
        // The keys first: one that is held spares the server the rest.
        if !batch.keys.is_empty() {
            steps.push(step(&inserts.keys, keys.params().to_vec()));
        }
        // Before the deliveries whose presence tells that they are stored.
        if !batch.deeds.is_empty() {
            steps.push(step(&self.deeds, deeds.params().to_vec()));
        }
        if !batch.progress.is_empty() {
            steps.push(step(&self.progress, progress.params().to_vec()));
        }
        if !batch.events.is_empty() {
            steps.push(step(&inserts.events, events.params().to_vec()));
        }
        if !batch.deliveries.is_empty() {
            let statement = if deliveries.are_wide() { &inserts.wide_deliveries } else { &inserts.deliveries };
            steps.push(step(statement, deliveries.params()));
        }
        if !batch.logs.is_empty() {
            steps.push(step(&inserts.logs, logs.params().to_vec()));
        }
        if !batch.retries.is_empty() {
            steps.push(step(&self.retries, retries.params().to_vec()));
        }
        // After the retries: a delivery that is in both has ended.
        if !marks.settled.is_empty() {
            steps.push(step(&self.settle, vec![&marks.settled]));
        }
        if !marks.behind.is_empty() {
            steps.push(step(&self.position, vec![&marks.behind, &marks.positions]));
        }
        if !marks.caught_up.is_empty() {
            steps.push(step(&self.catch_up, vec![&marks.caught_up]));
        }
        if let Some(watermark) = &marks.watermark {
            steps.push(step(&self.watermark, vec![watermark]));
        }
        steps.push(step(&self.commit, vec![]));
        join_all(steps).await.into_iter().try_for_each(|done| done.map(|_| ()))
    }
}

async fn execute(client: &Client, statement: &Statement, params: Vec<&(dyn ToSql + Sync)>) -> Result<u64, Error> {
    client.execute(statement, &params).await
}
