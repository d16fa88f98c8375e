//! Attempt logs that wait for a commit. Those that nobody waits for let others join them: what a commit costs hardly
//! depends on its rows, so fewer and larger ones cost less.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Record;

/// How long a log row that is not urgent waits for others: about two commits. What a crash can cause to be sent twice
/// grows by as much.
pub(super) const LOG_LINGER: Duration = Duration::from_millis(5);
/// So many are enough for a commit of their own: from here on a row costs what its row costs.
pub(super) const MAX_LINGERING: usize = 256;

/// In order of arrival.
#[derive(Default)]
pub(super) struct Records {
    queue: VecDeque<(Instant, Record)>,
    urgent: usize,
}

impl Records {
    /// Takes a record in; whether the writer has to hear of it: it is due, or the first to set the time.
    pub fn push(&mut self, record: Record) -> bool {
        let urgent = record.urgent;
        self.urgent += usize::from(urgent);
        self.queue.push_back((Instant::now(), record));
        urgent || self.queue.len() == 1 || self.queue.len() >= MAX_LINGERING
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<Record> {
        let (_, record) = self.queue.pop_front()?;
        self.urgent -= usize::from(record.urgent);
        Some(record)
    }

    /// Whether they should go with a commit that is taken now. All of them, then: order is kept.
    pub fn are_due(&self, now: Instant) -> bool {
        self.urgent > 0 || self.queue.len() >= MAX_LINGERING || self.due_at().is_some_and(|at| at <= now)
    }

    /// When the oldest has waited for long enough.
    pub fn due_at(&self) -> Option<Instant> {
        self.queue.front().map(|(queued_at, _)| *queued_at + LOG_LINGER)
    }
}
