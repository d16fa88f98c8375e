//! The one place that reads a clock. Everything else is handed a [`Timestamp`].
//!
//! Two readings, because a wall clock can be stepped: [`Clock::wall`] is what people and receivers see (log times,
//! `webhook-timestamp`, ids), [`Clock::steady`] only moves forward and is what deadlines are measured on.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::delivery::Timestamp;

/// A clock that starts at the wall time of its creation. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started_at: Timestamp,
    started: tokio::time::Instant,
    simulation: Option<&'static Simulation>,
}

/// What a simulation decides in place of the machine, so that a run can be repeated.
#[derive(Debug, Default)]
pub struct Simulation {
    /// By how much the wall clock has been stepped since the start.
    pub stepped_ms: AtomicI64,
    /// In place of chance, where ids are given.
    pub seed: u64,
}

impl Clock {
    /// A clock that agrees with the wall clock now, and from now on only moves forward.
    pub fn start() -> Self {
        Self { started_at: wall(), started: tokio::time::Instant::now(), simulation: None }
    }

    /// A clock of a simulation: its wall clock is the steady one, as far as it is not stepped.
    pub fn simulated(started_at: Timestamp, simulation: &'static Simulation) -> Self {
        Self { started_at, started: tokio::time::Instant::now(), simulation: Some(simulation) }
    }

    /// The wall clock, in milliseconds since the Unix epoch. May step in either direction.
    pub fn wall(&self) -> Timestamp {
        match self.simulation {
            None => wall(),
            Some(simulation) => Timestamp(self.steady().0 + simulation.stepped_ms.load(Ordering::Relaxed)),
        }
    }

    /// Milliseconds since the Unix epoch as of the start, plus what has passed since. Never steps, and stands still
    /// while a test has paused tokio's time.
    pub fn steady(&self) -> Timestamp {
        self.started_at + self.started.elapsed()
    }

    /// The instant of the runtime at which [`Clock::steady`] reads `at`; now, when that has passed.
    pub fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        self.started + Duration::from_millis(at.0.saturating_sub(self.started_at.0).max(0).unsigned_abs())
    }

    /// What stands for chance in a simulation.
    pub fn seed(&self) -> Option<u64> {
        self.simulation.map(|simulation| simulation.seed)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the edge that the ban points to")]
fn wall() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn in_a_simulation_the_wall_clock_is_stepped_and_the_steady_one_is_not() {
        static SIMULATION: Simulation = Simulation { stepped_ms: AtomicI64::new(0), seed: 7 };
        let clock = Clock::simulated(Timestamp(1000), &SIMULATION);
        tokio::time::advance(Duration::from_millis(5)).await;
        SIMULATION.stepped_ms.store(-300, Ordering::Relaxed);
        assert_eq!((clock.steady(), clock.wall()), (Timestamp(1005), Timestamp(705)));
        assert_eq!((clock.seed(), Clock::start().seed()), (Some(7), None));
    }
}
