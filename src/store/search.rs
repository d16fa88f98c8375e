//! Finding deliveries, in pages, with an amount of work that is bounded whatever is stored and whatever is asked for.
//!
//! A store takes one step at a time: it looks at so many rows of the best index that it has for the question, and says
//! how far it came. [`find`] makes a page of steps, and stops when the page is full, when everything was looked at, or when
//! it has looked at [`MAX_EXAMINED`] rows or for [`MAX_TIME`]. A page that stops early says so, and the next one goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Result, Store};
use crate::delivery::{DeliveryId, DeliveryState, EventId, Outcome, SubscriptionId, Timestamp};

/// Most rows that one page looks at.
pub const MAX_EXAMINED: usize = 20_000;
/// A page that has taken this long ends, however few rows it has looked at.
pub const MAX_TIME: Duration = Duration::from_millis(500);
/// A tenant of no more subscriptions than this is found by them. Of others the deliveries of all tenants are looked through.
const MAX_MERGED: usize = 16;
/// Most rows of one step: a few milliseconds of a snapshot.
const MAX_STEP: usize = 2_048;
/// Rows of the first step, at least. Each further one looks at twice as many.
const FIRST_STEP: usize = 128;

/// What is looked for: deliveries that have everything that is named.
#[derive(Clone, Debug)]
pub struct Search {
    /// Of this tenant.
    pub tenant: Option<Arc<str>>,
    /// Of this subscription.
    pub subscription_id: Option<SubscriptionId>,
    /// Of exactly this event type.
    pub event_type: Option<Arc<str>>,
    /// In one of these states; in any, if there are none.
    pub states: Vec<DeliveryState>,
    /// No resends.
    pub firsts_only: bool,
    /// The lowest id.
    pub first: DeliveryId,
    /// The highest id.
    pub last: DeliveryId,
    /// Oldest first. Newest first otherwise.
    pub oldest_first: bool,
}

impl Search {
    /// All deliveries, newest first.
    pub fn all() -> Self {
        Self {
            tenant: None,
            subscription_id: None,
            event_type: None,
            states: Vec::new(),
            firsts_only: false,
            first: DeliveryId::MIN,
            last: DeliveryId::MAX,
            oldest_first: false,
        }
    }

    /// Where the rows come from that have to be looked at.
    pub fn source(&self) -> Source {
        match (&*self.states, self.subscription_id) {
            ([DeliveryState::Failed], Some(id)) => Source::FailedOf(id),
            ([DeliveryState::Failed], None) => Source::Failed,
            ([DeliveryState::Retrying], _) => Source::Retries,
            (_, Some(id)) => Source::Of(id),
            (_, None) => Source::All,
        }
    }

    /// Whether only what lies above the watermark and the positions can be it.
    pub fn is_of_untried(&self) -> bool {
        self.states == [DeliveryState::Pending]
    }

    /// Whether a delivery that a store has come upon is one that is looked for.
    pub fn wants(&self, found: &FoundDelivery) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| Some(tenant) == found.tenant.as_ref())
            && self.subscription_id.is_none_or(|id| id == found.subscription_id)
            && self.event_type.as_ref().is_none_or(|event_type| Some(event_type) == found.event_type.as_ref())
            && (self.states.is_empty() || self.states.contains(&found.state()))
            && !(self.firsts_only && found.resend_of.is_some())
    }

    /// What is left of it once everything up to here was looked at; `None` when nothing is.
    fn beyond(&self, reached: DeliveryId) -> Option<Self> {
        let (first, last) =
            if self.oldest_first { (reached.successor(), self.last) } else { (self.first, reached.predecessor()) };
        let at_an_end = reached == if self.oldest_first { DeliveryId::MAX } else { DeliveryId::MIN };
        (first <= last && !at_an_end).then(|| Self { first, last, ..self.clone() })
    }
}

/// An index, in order of delivery ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// All deliveries.
    All,
    /// Those of a subscription.
    Of(SubscriptionId),
    /// Those with a log row that says that they have failed.
    Failed,
    /// Those of a subscription.
    FailedOf(SubscriptionId),
    /// Those that wait for a retry.
    Retries,
}

/// A delivery, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDelivery {
    /// The delivery.
    pub id: DeliveryId,
    /// Whose it is.
    pub subscription_id: SubscriptionId,
    /// That of its subscription, as far as anybody remembers.
    pub tenant: Option<Arc<str>>,
    /// As the producer named it.
    pub event_type: Option<Arc<str>>,
    /// The event that it came from by fan-out, if it did.
    pub event_id: Option<EventId>,
    /// The first delivery, if this is a resend.
    pub resend_of: Option<DeliveryId>,
    /// How its last attempt ended, if there was one.
    pub last_outcome: Option<Outcome>,
    /// When its next attempt is due, if one is planned.
    pub next_attempt_at: Option<Timestamp>,
    /// Whether its subscription still exists.
    pub subscription_exists: bool,
}

impl FoundDelivery {
    /// Where it stands.
    pub fn state(&self) -> DeliveryState {
        DeliveryState::of(self.last_outcome, self.subscription_exists)
    }
}

/// What one step came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// In the order of the search.
    pub found: Vec<FoundDelivery>,
    /// Rows that were looked at.
    pub examined: usize,
    /// The last id that was looked at; `None` when there is nothing behind it.
    pub reached: Option<DeliveryId>,
}

/// A page of deliveries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In the order of the search.
    pub deliveries: Vec<FoundDelivery>,
    /// What was looked at ends with this id; `None` when that is everything.
    pub reached: Option<DeliveryId>,
}

/// Up to `limit` deliveries.
pub async fn find(store: &dyn Store, search: &Search, limit: usize) -> Result<Found> {
    let started = Instant::now();
    if let (Some(tenant), Source::All | Source::Failed) = (&search.tenant, search.source())
        && let Some(ids) = store.subscriptions_ever(tenant, MAX_MERGED).await?
    {
        return merge(store, search, limit, ids, started).await;
    }
    walk(store, search, limit, MAX_EXAMINED, started).await
}

/// A tenant's of few subscriptions: each is searched, and nobody else's deliveries are looked at.
async fn merge(
    store: &dyn Store,
    search: &Search,
    limit: usize,
    ids: Vec<SubscriptionId>,
    started: Instant,
) -> Result<Found> {
    let (mut deliveries, mut ends) = (Vec::new(), Vec::new());
    for id in ids {
        let of_one = Search { subscription_id: Some(id), ..search.clone() };
        let found = walk(store, &of_one, limit, MAX_EXAMINED / MAX_MERGED, started).await?;
        deliveries.extend(found.deliveries);
        ends.extend(found.reached);
    }
    // Beyond the first end it is not known what that subscription has.
    let end = if search.oldest_first { ends.into_iter().min() } else { ends.into_iter().max() };
    deliveries.sort_unstable_by_key(|found| found.id);
    if search.oldest_first {
        deliveries.retain(|found| end.is_none_or(|end| found.id <= end));
    } else {
        deliveries.reverse();
        deliveries.retain(|found| end.is_none_or(|end| found.id >= end));
    }
    let more = deliveries.len() > limit;
    deliveries.truncate(limit);
    let reached = if more { deliveries.last().map(|last| last.id) } else { end };
    Ok(Found { deliveries, reached })
}

/// Step by step through the index that fits, and no more than so many rows.
async fn walk(store: &dyn Store, search: &Search, limit: usize, most: usize, started: Instant) -> Result<Found> {
    let (mut left, mut step_rows) = (most, (limit + 1).max(FIRST_STEP));
    let mut rest = search.clone();
    let mut deliveries = Vec::new();
    loop {
        let step = store.search_step(&rest, step_rows.min(MAX_STEP).min(left)).await?;
        deliveries.extend(step.found);
        if deliveries.len() > limit {
            deliveries.truncate(limit);
            return Ok(Found { reached: deliveries.last().map(|last| last.id), deliveries });
        }
        let Some(next) = step.reached.and_then(|reached| rest.beyond(reached)) else {
            return Ok(Found { deliveries, reached: None });
        };
        left = left.saturating_sub(step.examined);
        if left == 0 || started.elapsed() >= MAX_TIME {
            return Ok(Found { deliveries, reached: step.reached });
        }
        (rest, step_rows) = (next, step_rows * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> DeliveryId {
        DeliveryId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn what_was_looked_at_is_left_behind_in_either_direction() {
        let search = Search { first: id(10), last: id(20), ..Search::all() };
        let bounds = |search: Option<Search>| search.map(|search| (search.first, search.last));
        assert_eq!(bounds(search.beyond(id(15))), Some((id(10), id(14))));
        assert_eq!(bounds(search.beyond(id(10))), None);
        let upward = Search { oldest_first: true, ..search };
        assert_eq!(bounds(upward.beyond(id(15))), Some((id(16), id(20))));
        assert_eq!(bounds(upward.beyond(id(20))), None);
        assert_eq!(bounds(Search::all().beyond(DeliveryId::MIN)), None);
        assert_eq!(bounds(Search { oldest_first: true, ..Search::all() }.beyond(DeliveryId::MAX)), None);
    }

    #[test]
    fn what_is_rare_is_looked_for_where_nothing_else_is() {
        let of = |states: &[DeliveryState], subscription_id: Option<i64>| {
            let subscription_id = subscription_id.map(SubscriptionId);
            Search { states: states.to_vec(), subscription_id, ..Search::all() }.source()
        };
        assert_eq!(of(&[DeliveryState::Failed], None), Source::Failed);
        assert_eq!(of(&[DeliveryState::Failed], Some(7)), Source::FailedOf(SubscriptionId(7)));
        assert_eq!(of(&[DeliveryState::Retrying], Some(7)), Source::Retries);
        assert_eq!(of(&[DeliveryState::Failed, DeliveryState::Delivered], Some(7)), Source::Of(SubscriptionId(7)));
        assert_eq!(of(&[], None), Source::All);
    }
}
