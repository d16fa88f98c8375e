//! Connections that wait for their next delivery. The newest is taken first: it is the least likely to have been closed
//! by the other side, and the others can grow old.
//!
//! An idle connection has no task. What became of it meanwhile is looked at by whoever takes it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Most idle connections to one origin. Many subscriptions may share a host, and a connection that is closed and opened
/// again for each attempt costs more than the attempt.
const MAX_IDLE_PER_ORIGIN: usize = 256;
/// Most of them on the whole node, so that very many hosts do not use up the file descriptors. Beyond it the one that has
/// waited longest is closed.
const MAX_IDLE: usize = 2048;
/// Idle connections are closed before most servers and middleboxes close them: a delivery sent into a connection that
/// is being closed fails for no fault of the receiver.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Idle connections by origin (`https://example.com:443`). They are closed with the pool, or once they are too old.
pub(super) struct Pool<C>(Arc<Mutex<Idle<C>>>);

struct Idle<C> {
    /// The newest of each last; no queue is empty.
    by_origin: HashMap<Arc<str>, VecDeque<Waiting<C>>>,
    /// The same by their tickets, so that the oldest is at hand.
    by_age: BTreeMap<u64, (Instant, Arc<str>)>,
    next_ticket: u64,
    /// Whether a task watches their age.
    swept: bool,
}

struct Waiting<C> {
    /// Given in the order in which they came.
    ticket: u64,
    connection: C,
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        let idle = Idle { by_origin: HashMap::new(), by_age: BTreeMap::new(), next_ticket: 0, swept: false };
        Self(Arc::new(Mutex::new(idle)))
    }
}

impl<C: Send + 'static> Pool<C> {
    /// The connection to this origin that was used last.
    pub fn take(&self, origin: &str, now: Instant) -> Option<C> {
        // Closed after the lock is given back.
        let _expired;
        let mut idle = lock(&self.0);
        _expired = idle.take_expired(now);
        idle.take_newest(origin)
    }

    /// Keeps a connection for the next delivery.
    pub fn put(&self, origin: &Arc<str>, connection: C, now: Instant) {
        let _closed;
        let mut idle = lock(&self.0);
        _closed = idle.add(origin, connection, now);
        // The last delivery for a long time leaves connections too.
        if !mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

impl<C> Idle<C> {
    /// Returns one that is to be closed, if that made too many.
    fn add(&mut self, origin: &Arc<str>, connection: C, now: Instant) -> Option<C> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.by_age.insert(ticket, (now, origin.clone()));
        let queue = self.by_origin.entry(origin.clone()).or_default();
        queue.push_back(Waiting { ticket, connection });
        if queue.len() > MAX_IDLE_PER_ORIGIN {
            return self.take_oldest_of(origin);
        }
        if self.by_age.len() > MAX_IDLE { self.take_oldest() } else { None }
    }

    fn take_newest(&mut self, origin: &str) -> Option<C> {
        self.remove(origin, VecDeque::pop_back)
    }

    fn take_oldest_of(&mut self, origin: &str) -> Option<C> {
        self.remove(origin, VecDeque::pop_front)
    }

    fn take_oldest(&mut self) -> Option<C> {
        let (_, origin) = self.by_age.first_key_value()?.1;
        let origin = origin.clone();
        self.take_oldest_of(&origin)
    }

    fn remove(&mut self, origin: &str, pick: impl Fn(&mut VecDeque<Waiting<C>>) -> Option<Waiting<C>>) -> Option<C> {
        let queue = self.by_origin.get_mut(origin)?;
        let Waiting { ticket, connection } = pick(queue)?;
        if queue.is_empty() {
            self.by_origin.remove(origin);
        }
        self.by_age.remove(&ticket);
        Some(connection)
    }

    fn take_expired(&mut self, now: Instant) -> Vec<C> {
        let mut expired = Vec::new();
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            expired.extend(self.take_oldest());
        }
        expired
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.by_age.first_key_value().map(|(_, (since, _))| *since + IDLE_TIMEOUT)
    }
}

/// Closes what has waited too long, until nothing is left or the pool is gone.
async fn sweep<C>(pool: Weak<Mutex<Idle<C>>>) {
    while let Some(deadline) = sweep_once(&pool) {
        sleep_until(deadline).await;
    }
}

/// When to look again.
fn sweep_once<C>(pool: &Weak<Mutex<Idle<C>>>) -> Option<Instant> {
    let pool = pool.upgrade()?;
    let _expired;
    let mut idle = lock(&pool);
    _expired = idle.take_expired(Instant::now());
    let deadline = idle.next_deadline();
    idle.swept = deadline.is_some();
    deadline
}

/// Nothing in here panics half way.
fn lock<C>(pool: &Mutex<Idle<C>>) -> MutexGuard<'_, Idle<C>> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(name: &str) -> Arc<str> {
        format!("http://{name}:80").into()
    }

    fn len<C>(pool: &Pool<C>) -> usize {
        let idle = lock(&pool.0);
        assert_eq!(idle.by_age.len(), idle.by_origin.values().map(VecDeque::len).sum::<usize>());
        assert!(idle.by_origin.values().all(|queue| !queue.is_empty()), "an empty queue was kept");
        idle.by_age.len()
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_connection_to_the_same_origin_is_taken() {
        let (pool, a, b) = (Pool::default(), origin("a"), origin("b"));
        for (origin, connection) in [(&a, 1), (&b, 2), (&a, 3)] {
            pool.put(origin, connection, Instant::now());
        }
        let taken = || (pool.take(&a, Instant::now()), pool.take(&b, Instant::now()));
        assert_eq!(taken(), (Some(3), Some(2)));
        assert_eq!(taken(), (Some(1), None));
        assert_eq!(len(&pool), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_keeps_its_newest_and_no_more() {
        let (pool, a) = (Pool::default(), origin("a"));
        for connection in 0..=MAX_IDLE_PER_ORIGIN {
            pool.put(&a, connection, Instant::now());
        }
        assert_eq!(len(&pool), MAX_IDLE_PER_ORIGIN);
        let taken: Vec<_> = std::iter::from_fn(|| pool.take(&a, Instant::now())).collect();
        assert_eq!(taken, (1..=MAX_IDLE_PER_ORIGIN).rev().collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_node_closes_the_one_that_waited_longest() {
        let pool = Pool::default();
        for connection in 0..=MAX_IDLE {
            pool.put(&origin(&connection.to_string()), connection, Instant::now());
        }
        assert_eq!(len(&pool), MAX_IDLE);
        assert_eq!(pool.take(&origin("0"), Instant::now()), None);
        assert_eq!(pool.take(&origin("1"), Instant::now()), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn no_connection_is_taken_that_waited_too_long() {
        let (pool, a) = (Pool::default(), origin("a"));
        let began = Instant::now();
        pool.put(&a, 1, began);
        pool.put(&a, 2, began + Duration::from_millis(1));
        assert_eq!(pool.take(&a, began + IDLE_TIMEOUT), Some(2));
        assert_eq!(pool.take(&a, began + IDLE_TIMEOUT), None);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_closed_when_no_delivery_comes_any_more() {
        let (pool, a, connection) = (Pool::default(), origin("a"), Arc::new(()));
        // Twice: the task that watches ends when nothing is left, and another one is started.
        for _ in 0..2 {
            pool.put(&a, connection.clone(), Instant::now());
            tokio::time::advance(IDLE_TIMEOUT - Duration::from_millis(1)).await;
            assert_eq!(Arc::strong_count(&connection), 2);
            tokio::time::timeout(Duration::from_secs(1), async {
                while Arc::strong_count(&connection) > 1 {
                    tokio::task::yield_now().await;
                    tokio::time::advance(Duration::from_millis(1)).await;
                }
            })
            .await
            .unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_closed_with_the_pool() {
        let (pool, connection) = (Pool::default(), Arc::new(()));
        pool.put(&origin("a"), connection.clone(), Instant::now());
        drop(pool);
        assert_eq!(Arc::strong_count(&connection), 1);
    }
}
