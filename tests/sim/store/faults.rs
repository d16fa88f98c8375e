//! What can go wrong at the store: it is slow, it is away, it takes effect and its reply is lost.

use std::sync::Arc;

use hookpost::delivery::{AttemptLog, DisabledReason, SubscriptionId};
use hookpost::store::{Batch, Result, StoreError, SubscriptionChange};

use crate::panics;
use crate::sim::{Sabotage, Sim};

/// Those of a world, or none.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Sim>>);

fn unavailable<T>(why: &str) -> Result<T> {
    Err(StoreError::Unavailable(why.to_owned()))
}

impl Faults {
    pub fn of(sim: Arc<Sim>) -> Self {
        Self(Some(sim))
    }

    /// The call is on its way to the store.
    pub async fn before(&self, what: &str) -> Result<()> {
        let Some(sim) = &self.0 else { return Ok(()) };
        self.travel(sim).await;
        if sim.store_is_away() {
            return unavailable("it is away");
        }
        if sim.faulty() && sim.chance.per_mille(sim.profile.store_fails_per_mille) {
            sim.say(format_args!("store: {what} fails"));
            sim.count("a call of the store fails");
            return unavailable("it failed");
        }
        Ok(())
    }

    /// The answer is on its way back, and as old as that.
    pub async fn after_read(&self, what: &str) -> Result<()> {
        let Some(sim) = &self.0 else { return Ok(()) };
        if sim.faulty() && sim.chance.percent(30) {
            self.travel(sim).await;
        }
        self.lose_reply(sim, what)
    }

    /// Likewise, of a call that has taken effect.
    pub async fn after_write(&self, what: &str) -> Result<()> {
        let Some(sim) = &self.0 else { return Ok(()) };
        sim.crash_point("after the store took effect").await;
        if sim.faulty() && sim.chance.percent(50) {
            self.travel(sim).await;
        }
        self.lose_reply(sim, what)
    }

    fn lose_reply(&self, sim: &Sim, what: &str) -> Result<()> {
        if sim.faulty() && sim.chance.per_mille(sim.profile.reply_lost_per_mille) {
            sim.say(format_args!("store: the reply to {what} is lost"));
            sim.count(if what == "commit" { "the reply to a commit is lost" } else { "another reply is lost" });
            return unavailable("the connection broke");
        }
        Ok(())
    }

    async fn travel(&self, sim: &Sim) {
        let time = match sim.faulty() {
            true if sim.chance.per_mille(sim.profile.store_stalls_per_mille) => sim.chance.ms(1000, 9000),
            true => sim.chance.skewed_ms(sim.profile.store_slow_ms),
            false => sim.chance.ms(1, 3),
        };
        sim.pass(time).await;
    }

    /// What an actor reads: the task that reads it may panic, and takes the actor with it.
    pub fn actor_reads(&self, id: SubscriptionId, what: &str) {
        let Some(sim) = &self.0 else { return };
        let told = sim.history().panics_at_start.remove(&id);
        if told || (sim.faulty() && sim.chance.per_mille(sim.profile.panics_per_mille)) {
            sim.say(format_args!("subscription {id}: {what} panics"));
            sim.count("an actor crashes");
            sim.history().crashing.insert(id);
            panics::meant(what);
        }
    }

    /// A subscription is read: to start its actor, above all.
    pub fn subscription_is_read(&self, id: SubscriptionId) {
        let Some(sim) = &self.0 else { return };
        let told = sim.history().panics_at_activation.remove(&id);
        if told {
            sim.say(format_args!("subscription {id}: reading it panics"));
            panics::meant("reading a subscription");
        }
    }

    /// An actor starts, for the first time or again.
    pub fn actor_starts(&self, id: SubscriptionId) {
        if let Some(sim) = &self.0 {
            sim.history().actor_starts(id);
            sim.count("an actor starts");
            self.actor_reads(id, "the start of an actor");
        }
    }

    /// A commit fails, and takes effect later.
    pub fn delays_commit(&self) -> bool {
        let Some(sim) = &self.0 else { return false };
        let delays = sim.faulty() && sim.chance.per_mille(sim.profile.reply_lost_per_mille / 2);
        if delays {
            sim.say("store: the connection breaks, and a commit may still take effect");
            sim.count("a commit takes effect late");
        }
        delays
    }

    /// This is being committed, if the store is what it should be.
    pub fn commits(&self, batch: &Batch) -> Batch {
        let Some(sim) = &self.0 else { return batch.clone() };
        let ids: Vec<_> = batch.deliveries.iter().map(|d| short(d.id.0)).collect();
        let logs =
            batch.logs.iter().map(|l| format!("{}#{} {:?}", short(l.delivery_id.0), l.attempt_number, l.outcome));
        let logs: Vec<_> = logs.collect();
        let retries: Vec<_> = batch.retries.iter().map(|retry| short(retry.delivery_id.0)).collect();
        let rest = (batch.settled.len(), batch.positions.len(), batch.watermark.is_some());
        sim.say(format_args!("store: commit {ids:?} {logs:?} retries {retries:?} {rest:?}"));
        let mut batch = batch.clone();
        for (_, position) in &batch.positions {
            sim.count(if position.is_some() { "a position is saved" } else { "a position is given up" });
        }
        if batch.watermark.is_some() {
            sim.count("the watermark moves");
        }
        match sim.sabotage {
            Some(Sabotage::ForgetDeliveries) if sim.chance.percent(10) => {
                batch.deliveries.clear();
                batch.events.clear();
            }
            Some(Sabotage::ForgetLogs) if sim.chance.percent(20) => batch.logs.clear(),
            Some(Sabotage::JumpWatermark) => {
                batch.watermark = batch.deliveries.last().map(|last| last.id).or(batch.watermark);
            }
            Some(Sabotage::ForgetRetries) => batch.retries.clear(),
            Some(Sabotage::InventStatus) => batch.logs.iter_mut().for_each(|row| row.http_status = Some(299)),
            _ => {}
        }
        self.logged(&batch.logs);
        batch
    }

    /// These rows are durable.
    pub fn logged(&self, rows: &[AttemptLog]) {
        if let Some(sim) = &self.0 {
            sim.history().log(rows);
        }
    }

    /// The janitor has ended these.
    pub fn expired(&self, rows: &[AttemptLog]) {
        self.logged(rows);
        if let (Some(sim), false) = (&self.0, rows.is_empty()) {
            sim.count("a delivery outlives its retention");
        }
    }

    pub fn changing(&self, change: &SubscriptionChange) {
        if let (Some(sim), Some(Some(DisabledReason::Gone | DisabledReason::Failing))) = (&self.0, change.disabled) {
            sim.count("a subscription is disabled by its receiver");
        }
    }

    pub fn forgets_recovery(&self) -> bool {
        self.0.as_ref().is_some_and(|sim| sim.sabotage == Some(Sabotage::ForgetRecovery))
    }
}

/// Enough of an id to tell it from others, for people: its counter and the end of its time.
pub fn short(id: uuid::Uuid) -> String {
    let text = id.simple().to_string();
    format!("{}.{}", &text[7..12], &text[16..20])
}
