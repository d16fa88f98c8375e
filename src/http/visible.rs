//! What exists for a caller. Handlers find a subscription, a delivery or an event here and nowhere else: what belongs to
//! another tenant than the caller's is answered as if it had never been.

use super::Http;
use super::problem::{Kind, Problem, quoted};
use crate::access::Caller;
use crate::delivery::{Delivery, DeliveryId, Event, EventId, Subscription, SubscriptionId};
use crate::store::{DeliveryRecord, Replay, ReplayId};

/// The subscription.
pub(super) async fn subscription(http: &Http, caller: &Caller, id: SubscriptionId) -> Result<Subscription, Problem> {
    let found = http.api.store.subscription(id).await?;
    found.filter(|subscription| caller.sees(&subscription.tenant)).ok_or_else(|| no_subscription(id))
}

/// The problem of a subscription that does not exist (any more).
pub(super) fn no_subscription(id: SubscriptionId) -> Problem {
    Problem::new(Kind::SubscriptionNotFound, format!("there is no subscription {id}"))
}

/// The subscription of a delivery that the caller sees: it is of the same tenant.
pub(super) async fn subscription_of(http: &Http, record: &DeliveryRecord) -> Result<Option<Subscription>, Problem> {
    Ok(http.api.store.subscription(record.subscription_id).await?)
}

/// The delivery that a segment of a path names. One that is of no tenant that anybody remembers exists for those who see
/// all tenants.
pub(super) async fn delivery(http: &Http, caller: &Caller, segment: &str) -> Result<DeliveryRecord, Problem> {
    let unknown = |why: String| Problem::new(Kind::DeliveryNotFound, why);
    let id: DeliveryId =
        segment.parse().map_err(|_| unknown(format!("{} is no delivery_id: these are UUIDs", quoted(segment))))?;
    let found = http.api.store.delivery(id).await?;
    let seen = |record: &DeliveryRecord| match &record.tenant {
        Some(tenant) => caller.sees(tenant),
        None => caller.tenant.is_none(),
    };
    found.filter(seen).ok_or_else(|| unknown(format!("there is no delivery {id}, or its retention has passed")))
}

/// A delivery that the caller sees, with its payload, if that is still kept.
pub(super) async fn with_payload(http: &Http, record: &DeliveryRecord) -> Result<Option<Delivery>, Problem> {
    Ok(http.api.store.deliveries(&[record.id], usize::MAX).await?.pop())
}

/// The replay that a segment of a path names.
pub(super) async fn replay(http: &Http, caller: &Caller, segment: &str) -> Result<Replay, Problem> {
    let digits = segment.bytes().all(|byte| byte.is_ascii_digit());
    let id = segment.parse().ok().filter(|_| digits).map(ReplayId).ok_or_else(|| {
        Problem::new(
            Kind::ReplayNotFound,
            format!("{} is no replay: ids are numbers, as in /replays/1", quoted(segment)),
        )
    })?;
    let found = http.api.store.replay(id).await?;
    found.filter(|replay| caller.sees(&replay.tenant)).ok_or_else(|| no_replay(id))
}

/// The problem of a replay that does not exist (any more).
pub(super) fn no_replay(id: ReplayId) -> Problem {
    Problem::new(Kind::ReplayNotFound, format!("there is no replay {id}, or its retention has passed"))
}

/// The event that a segment of a path names.
pub(super) async fn event(http: &Http, caller: &Caller, segment: &str) -> Result<Event, Problem> {
    let unknown = |why: String| Problem::new(Kind::EventNotFound, why);
    let id: EventId =
        segment.parse().map_err(|_| unknown(format!("{} is no event_id: these are UUIDs", quoted(segment))))?;
    let found = http.api.store.event(id).await?;
    let seen = |event: &Event| caller.sees(&event.tenant);
    found.filter(seen).ok_or_else(|| unknown(format!("there is no event {id}, or its retention has passed")))
}
