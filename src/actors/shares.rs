//! How the node's attempts are shared: who gets a place at once, and who gets the next one that becomes free.
//!
//! As in switches whose ports share a buffer (Choudhury and Hahne, "Dynamic queue length thresholds", 1998), nobody may
//! hold more than a multiple of what is free. So one that is alone may hold much, many may hold little each, and there is
//! always something left for one that comes now.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::delivery::SubscriptionId;

/// A subscription may hold an eighth of what is free: alone, a ninth of all.
const SUBSCRIPTION_DIVISOR: usize = 8;
/// A tenant may hold twice what is free: alone, two thirds of all.
const TENANT_FACTOR: usize = 2;
/// The first places of its subscriptions may take a tenant further, alone to all but a few: where there is one tenant only,
/// they are what isolation means.
const TENANT_FIRST_FACTOR: usize = 32;
/// One in so many places is only for subscriptions that hold none, or whose last attempt succeeded: when a thousand
/// receivers hang from the beginning, those that come then still find a place.
const PROVEN_DIVISOR: usize = 2;
/// Subscriptions whose last attempt failed together hold at most one in so many: thousands of dead receivers with one
/// attempt each leave the others the rest.
const SUSPECTS_DIVISOR: usize = 2;
/// One place in so many is only for subscriptions that hold none.
const RESERVE_DIVISOR: usize = 32;

/// Who asks for a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claimant {
    pub subscription: SubscriptionId,
    pub tenant: Arc<str>,
    pub standing: Standing,
}

/// What is known of a subscription's receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing yet.
    New,
    /// The last attempt succeeded.
    Proven,
    /// The last attempt failed.
    Suspect,
}

/// In the order of [`Queues`].
const STANDINGS: [Standing; 3] = [Standing::New, Standing::Proven, Standing::Suspect];

/// A place that is held. Has to be given back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place(Claimant);

/// A place in the queue, for leaving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// The places and those who wait for one. Each waiter is kept with something that tells it; a subscription has at most
/// its window of them, so they are bounded.
pub(super) struct Shares<W> {
    max: usize,
    held: usize,
    suspects_held: usize,
    /// Places that each tenant holds.
    tenants: HashMap<Arc<str>, usize>,
    subscriptions: HashMap<SubscriptionId, Holder<W>>,
    /// Of each tenant whose subscriptions wait, the next one first.
    queues: HashMap<Arc<str>, Queues>,
    waiting: usize,
    next_ticket: u64,
}

/// One that holds places, or waits for one.
struct Holder<W> {
    held: usize,
    standing: Standing,
    tenant: Arc<str>,
    waiters: VecDeque<(Ticket, W)>,
}

/// By [`Standing`], since other bounds hold for each.
type Queues = [BTreeSet<Turn>; 3];

/// The fewest places, then the longest wait.
type Turn = (usize, Ticket, SubscriptionId);

impl<W> Holder<W> {
    fn turn(&self, id: SubscriptionId) -> Option<Turn> {
        self.waiters.front().map(|(ticket, _)| (self.held, *ticket, id))
    }
}

impl<W> Shares<W> {
    pub fn new(max: usize) -> Self {
        Self {
            max,
            held: 0,
            suspects_held: 0,
            tenants: HashMap::new(),
            subscriptions: HashMap::new(),
            queues: HashMap::new(),
            waiting: 0,
            next_ticket: 0,
        }
    }

    /// Places that are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether nobody holds a place or waits for one.
    pub fn is_idle(&self) -> bool {
        self.held == 0 && self.waiting == 0
    }

    /// A place, if the claimant may have one at once.
    pub fn take(&mut self, claimant: &Claimant) -> Option<Place> {
        let holder = self.subscriptions.get(&claimant.subscription);
        let held = holder.map_or(0, |holder| holder.held);
        let queued = holder.is_some_and(|holder| !holder.waiters.is_empty());
        let may = !queued && self.may_take(held, &claimant.tenant, claimant.standing);
        may.then(|| self.grant(claimant.clone()))
    }

    /// Queues a claimant that did not get a place, with what tells it. Others of its own may be due one, if it is a suspect
    /// no longer: see [`Self::next`].
    pub fn wait(&mut self, claimant: &Claimant, waiter: W) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting += 1;
        self.change(claimant.subscription, &claimant.tenant, |holder| {
            holder.standing = claimant.standing;
            holder.waiters.push_back((ticket, waiter));
        });
        ticket
    }

    /// Gives a place back. Others may be due one then: see [`Self::next`].
    pub fn give(&mut self, place: Place) {
        let Claimant { subscription, tenant, standing } = place.0;
        self.held -= 1;
        self.suspects_held -= usize::from(standing == Standing::Suspect);
        self.change(subscription, &tenant, |holder| holder.held -= 1);
        if let Some(held) = self.tenants.get_mut(&tenant) {
            *held -= 1;
            if *held == 0 {
                self.tenants.remove(&tenant);
            }
        }
    }

    /// Leaves the queue; nothing happens to one that has its place by now.
    pub fn leave(&mut self, claimant: &Claimant, ticket: Ticket) {
        let mut left = 0;
        self.change(claimant.subscription, &claimant.tenant, |holder| {
            let waiters = holder.waiters.len();
            holder.waiters.retain(|(waits, _)| *waits != ticket);
            left = waiters - holder.waiters.len();
        });
        self.waiting -= left;
    }

    /// The next waiter that may have a place, with its place. To be asked until there is none, after whatever changes what
    /// is free or who may have it.
    pub fn next(&mut self) -> Option<(W, Place)> {
        if self.waiting == 0 || self.held == self.max {
            return None;
        }
        // Whoever is behind the first of a queue holds as much or more, and may not have a place either.
        let first = |tenant: &Arc<str>, (standing, queue): (Standing, &BTreeSet<Turn>)| {
            queue.first().copied().filter(|(held, ..)| self.may_take(*held, tenant, standing))
        };
        let turns = self.queues.iter().flat_map(|(tenant, queues)| {
            STANDINGS.into_iter().zip(queues).filter_map(move |queue| first(tenant, queue))
        });
        let (_, _, id) = turns.min()?;
        let Holder { tenant, standing, .. } = self.subscriptions.get(&id)?;
        let claimant = Claimant { subscription: id, tenant: tenant.clone(), standing: *standing };
        let mut waiter = None;
        self.change(id, &claimant.tenant, |holder| waiter = holder.waiters.pop_front());
        let (_, waiter) = waiter?;
        self.waiting -= 1;
        Some((waiter, self.grant(claimant)))
    }

    /// Each bound falls with what the subscription holds, so that the first of a queue stands for the others.
    fn may_take(&self, held: usize, tenant: &Arc<str>, standing: Standing) -> bool {
        let free = self.max - self.held;
        let reserve = self.max / RESERVE_DIVISOR;
        let suspect = standing == Standing::Suspect;
        // A few suspects are let in among them, so that none of them waits for ever when the node is full.
        let first = held == 0 && (!suspect || self.suspects_held < reserve);
        let tenant_held = self.tenants.get(tenant).copied().unwrap_or(0);
        let tenant_factor = if first { TENANT_FIRST_FACTOR } else { TENANT_FACTOR };
        free > 0
            && (first || free > reserve)
            && (held == 0 || standing == Standing::Proven || free > self.max / PROVEN_DIVISOR)
            && held < (free / SUBSCRIPTION_DIVISOR).max(1)
            && (tenant_held == 0 || tenant_held < free * tenant_factor)
            && (!suspect || self.suspects_held < self.max / SUSPECTS_DIVISOR)
    }

    fn grant(&mut self, claimant: Claimant) -> Place {
        self.held += 1;
        self.suspects_held += usize::from(claimant.standing == Standing::Suspect);
        self.change(claimant.subscription, &claimant.tenant, |holder| {
            holder.held += 1;
            holder.standing = claimant.standing;
        });
        match self.tenants.get_mut(&claimant.tenant) {
            Some(held) => *held += 1,
            None => drop(self.tenants.insert(claimant.tenant.clone(), 1)),
        }
        Place(claimant)
    }

    /// Changes what is known of a subscription, and puts it where it then belongs among those who wait.
    fn change(&mut self, id: SubscriptionId, tenant: &Arc<str>, change: impl FnOnce(&mut Holder<W>)) {
        let fresh = || Holder { held: 0, standing: Standing::New, tenant: tenant.clone(), waiters: VecDeque::new() };
        let holder = self.subscriptions.entry(id).or_insert_with(fresh);
        let before = holder.turn(id).map(|turn| (holder.standing, turn));
        change(holder);
        let after = holder.turn(id).map(|turn| (holder.standing, turn));
        if holder.held == 0 && after.is_none() {
            self.subscriptions.remove(&id);
        }
        if before == after {
            return;
        }
        let queues = self.queues.entry(tenant.clone()).or_default();
        before.map(|(standing, turn)| queues[standing as usize].remove(&turn));
        after.map(|(standing, turn)| queues[standing as usize].insert(turn));
        if queues.iter().all(BTreeSet::is_empty) {
            self.queues.remove(tenant);
        }
    }
}

#[cfg(test)]
#[path = "shares_tests.rs"]
mod tests;
