//! Replays: jobs that send again what a subscription had in a range of time. What a store keeps of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::access::Actor;
use crate::audit::{Act, Thing};
use crate::delivery::{DeliveryId, DeliveryState, SubscriptionId, Timestamp};

/// Where a replay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayState {
    /// It goes on, or waits until the subscription has room.
    Running,
    /// Everything that matched was sent again.
    Done,
    /// Somebody stopped it, or its subscription was deleted.
    Cancelled,
    /// It could not go on; its detail says why.
    Failed,
}

impl ReplayState {
    const ALL: [Self; 4] = [Self::Running, Self::Done, Self::Cancelled, Self::Failed];

    /// The word stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl FromStr for ReplayState {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == word);
        found.ok_or_else(|| format!("unknown state of a replay: {word:?}"))
    }
}

/// A replay's id: a small integer, as in `/replays/1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct ReplayId(pub i64);

impl fmt::Display for ReplayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A replay as it is asked for.
#[derive(Clone, Debug)]
pub struct NewReplay {
    /// Whose deliveries.
    pub subscription_id: SubscriptionId,
    /// In which states; at least one.
    pub states: Vec<DeliveryState>,
    /// The lowest id.
    pub first: DeliveryId,
    /// The highest id. What is accepted later is left out, whatever this says.
    pub last: DeliveryId,
    /// Who asks, for the audit.
    pub by: Actor,
}

impl NewReplay {
    /// What the audit says of it.
    pub(super) fn detail(&self, id: ReplayId) -> String {
        let (from, to) = (self.first.accepted_at(), self.last.accepted_at());
        format!("replay {id}: {} from {from} to {to}", states_text(&self.states))
    }
}

/// A replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Given by the store, rising.
    pub id: ReplayId,
    /// Whose deliveries.
    pub subscription_id: SubscriptionId,
    /// That of the subscription, which may be deleted since.
    pub tenant: Arc<str>,
    /// In which states.
    pub states: Vec<DeliveryState>,
    /// The lowest id.
    pub first: DeliveryId,
    /// The highest id.
    pub last: DeliveryId,
    /// Everything below this is done.
    pub position: DeliveryId,
    /// Deliveries that were to be sent again so far.
    pub matched: u64,
    /// Those of them that were; of the others the payload was gone.
    pub resent: u64,
    /// Where it stands.
    pub state: ReplayState,
    /// Why, in words, if there is something to say.
    pub detail: Option<String>,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it ended, if it has.
    pub ended_at: Option<Timestamp>,
}

/// What became of the wish for a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It runs.
    Made(Replay),
    /// This one of the same subscription runs already.
    Running(ReplayId),
    /// As many of the tenant run as may.
    TooMany,
    /// There is no such subscription.
    Missing,
}

/// How far a replay has come. Absolute in its position, so that it is applied once however often it is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub id: ReplayId,
    /// Where it was. If it is elsewhere, the commit is refused, unless it is the one that has moved it.
    pub from: DeliveryId,
    /// Where it is with this commit; above `from`.
    pub to: DeliveryId,
    /// Added to what has matched.
    pub matched: u64,
    /// Added to what was sent again.
    pub resent: u64,
    /// The first delivery in the same commit: whether it is stored tells whether the commit was this one.
    pub with: Option<DeliveryId>,
}

/// Something that somebody did, for the audit, in the commit of what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// Who did what.
    pub act: Act,
    /// To what.
    pub object: Thing,
    /// Whose that is.
    pub tenant: Option<Arc<str>>,
    /// When.
    pub at: Timestamp,
    /// The delivery that came of it: if it is stored already, so is the deed.
    pub with: DeliveryId,
}

/// States as they are stored.
pub(super) fn states_text(states: &[DeliveryState]) -> String {
    states.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(",")
}

/// What [`states_text`] has made a text of.
pub(super) fn states_from_text(text: &str) -> Result<Vec<DeliveryState>, String> {
    text.split(',').map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_as_they_were_written() {
        for state in ReplayState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("x".parse::<ReplayState>().unwrap_err().contains("\"x\""));
        let states = vec![DeliveryState::Failed, DeliveryState::Delivered];
        assert_eq!(states_from_text(&states_text(&states)), Ok(states));
        assert!(states_from_text("").is_err());
    }
}
