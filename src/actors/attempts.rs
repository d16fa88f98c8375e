//! The places for HTTP attempts, shared by [`Shares`]: waiting for one, and giving it back whatever happens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::shares::{Claimant, Place, Shares, Ticket};

type Waiters = Shares<oneshot::Sender<Permit>>;

/// Most HTTP attempts under way or not yet logged. Bounds sockets, and what a crash can cause to be sent twice.
pub(super) const MAX_ATTEMPTS: usize = 2048;

/// See the module's docs.
pub(super) struct Attempts {
    shares: Mutex<Waiters>,
    idle: Notify,
}

/// A place. Free again when it is dropped.
pub(super) struct Permit {
    attempts: Arc<Attempts>,
    /// Taken by the drop.
    place: Option<Place>,
}

impl Attempts {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { shares: Mutex::new(Shares::new(MAX_ATTEMPTS)), idle: Notify::new() })
    }

    /// Places that are held.
    pub fn held(&self) -> usize {
        self.lock().held()
    }

    /// A place, if the claimant may have one at once.
    pub fn try_take(self: &Arc<Self>, claimant: &Claimant) -> Option<Permit> {
        let place = self.lock().take(claimant)?;
        Some(self.permit(place))
    }

    /// A place, when it is this claimant's turn. Dropped before, it leaves the queue.
    pub async fn wait(self: &Arc<Self>, claimant: Claimant) -> Permit {
        let (ticket, told) = {
            let mut shares = self.lock();
            let (tell, told) = oneshot::channel();
            let ticket = shares.wait(&claimant, tell);
            self.settle(shares);
            (ticket, told)
        };
        let _waiting = Waiting { attempts: self, claimant, ticket };
        told.await.expect("whoever waits is told, or leaves")
    }

    /// Resolves when every place is free and nobody waits for one.
    pub async fn all_free(&self) {
        loop {
            let idle = self.idle.notified();
            if self.lock().is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// Hands out what can be handed out.
    fn settle<'a>(self: &'a Arc<Self>, mut shares: MutexGuard<'a, Waiters>) {
        while let Some((tell, place)) = shares.next() {
            // Whoever does not want it any more gives it back right here, which takes the lock.
            drop(shares);
            let _ = tell.send(self.permit(place));
            shares = self.lock();
        }
        if shares.is_idle() {
            self.idle.notify_waiters();
        }
    }

    fn permit(self: &Arc<Self>, place: Place) -> Permit {
        Permit { attempts: self.clone(), place: Some(place) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let mut shares = self.attempts.lock();
            shares.give(place);
            self.attempts.settle(shares);
        }
    }
}

/// Leaves the queue when it is dropped.
struct Waiting<'a> {
    attempts: &'a Arc<Attempts>,
    claimant: Claimant,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut shares = self.attempts.lock();
        shares.leave(&self.claimant, self.ticket);
        self.attempts.settle(shares);
    }
}
