//! The sole right to commit: a session's advisory lock, held by the very connection that every commit goes through.
//!
//! Who loses the connection loses the right with it, and who has the right knows that no earlier owner's commit is
//! still under way: the server frees the lock only when it is done with the session that held it.
//!
//! Whoever takes the right leaves its name. A process that lost its connection, and finds another's name there, never gets
//! it again: what it holds in memory is stale. As long as its own is there, nobody has had the right in the meantime: what
//! holds the lock is a connection of its own that the server still believes in, or somebody about to sign.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Error;
use uuid::{Builder, Uuid};

use super::super::{Result, StoreError};
use super::commit::Statements;
use super::connection::{Connector, Purpose, READ_DEADLINE, Session};
use super::error::{store_error, too_slow};

/// How long a commit may take, or the question whether the connection is alive. Above the server's own limit for a
/// statement; past it the connection is given up, and what became of the commit is found out after the next `acquire`.
pub(super) const COMMIT_DEADLINE: Duration = Duration::from_secs(5);

/// The lock belongs to the table, so that services in different schemas of a database have one each.
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(1215261800, 'deliveries'::regclass::oid::integer),
     pg_backend_pid(), (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid())";
/// Ends our own last session, if it is still there: it may wait for a client that is long gone.
const END_PREDECESSOR: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE pid = $1 AND backend_start::text = $2";

const LAST_OWNER: &str = "SELECT process FROM owner";
const SIGN: &str = "INSERT INTO owner (process) VALUES ($1) ON CONFLICT (only_row) DO UPDATE SET process = $1";

/// The connection that commits.
pub(super) struct Writer {
    pub session: Session,
    pub statements: Statements,
    backend: Backend,
}

/// A session as the server names it; process ids alone come round again.
type Backend = (i32, String);

enum State {
    /// Never had the right.
    Stranger,
    /// Had it, and lost the connection. The server may not have noticed yet.
    Lost(Backend),
    Owner(Arc<Writer>),
    /// Had it, and another had it since. For good.
    Replaced,
}

pub(super) struct Owner {
    process: Uuid,
    state: Mutex<State>,
}

impl Owner {
    pub fn new() -> Self {
        Self { process: Builder::from_random_bytes(rand::random()).into_uuid(), state: Mutex::new(State::Stranger) }
    }

    /// Takes the right, or makes sure that it is still held; `false` when another session has it. `NotOwner` when it was
    /// held and another process has had it since: asking again is of no use.
    pub async fn acquire(&self, connector: &Connector) -> Result<bool> {
        let mut state = self.state.lock().await;
        if let State::Owner(writer) = &*state {
            if writer.is_alive().await {
                return Ok(true);
            }
            writer.session.abandon();
            *state = State::Lost(writer.backend.clone());
        }
        if matches!(*state, State::Replaced) {
            return Err(StoreError::NotOwner);
        }
        let session = connector.open(Purpose::Writer).await?;
        let last = if let State::Lost(backend) = &*state { Some(backend) } else { None };
        let taken = timeout(READ_DEADLINE, self.take(&session, last)).await;
        match taken.map_err(|_| too_slow("acquiring the store"))?.map_err(store_error)? {
            Attempt::Taken(backend, statements) => {
                *state = State::Owner(Arc::new(Writer { session, statements, backend }));
                Ok(true)
            }
            Attempt::Held => Ok(false),
            Attempt::Replaced => {
                *state = State::Replaced;
                Err(StoreError::NotOwner)
            }
        }
    }

    async fn take(&self, session: &Session, last: Option<&Backend>) -> Result<Attempt, Error> {
        let client = &session.client;
        let row = client.query_one(TRY_LOCK, &[]).await?;
        #[cfg(feature = "negative-controls")]
        if last.is_some() && crate::negative_controls::ignores_fencing() {
            return Ok(Attempt::Taken((row.get(1), row.get(2)), Statements::prepare(client).await?));
        }
        let owner: Option<Uuid> = client.query_opt(LAST_OWNER, &[]).await?.map(|row| row.get(0));
        if last.is_some() && owner != Some(self.process) {
            return Ok(Attempt::Replaced);
        }
        if row.get(0) {
            client.execute(SIGN, &[&self.process]).await?;
            return Ok(Attempt::Taken((row.get(1), row.get(2)), Statements::prepare(client).await?));
        }
        if let Some((pid, started)) = last {
            client.query(END_PREDECESSOR, &[pid, started]).await?;
        }
        Ok(Attempt::Held)
    }

    /// The connection to commit on.
    pub async fn writer(&self) -> Result<Arc<Writer>> {
        match &*self.state.lock().await {
            State::Owner(writer) if writer.session.client.is_closed() => Err(gone()),
            State::Owner(writer) => Ok(writer.clone()),
            State::Lost(_) => Err(gone()),
            State::Stranger | State::Replaced => Err(StoreError::NotOwner),
        }
    }

    /// Gives up a connection that did not answer: nothing more may be sent on it, and its right ends with it.
    pub async fn give_up(&self, lost: &Writer) {
        lost.session.abandon();
        let mut state = self.state.lock().await;
        if matches!(&*state, State::Owner(writer) if writer.backend == lost.backend) {
            *state = State::Lost(lost.backend.clone());
        }
    }

    /// Whether it has the right and can use it; nothing to complain about when it never had it.
    pub async fn ping(&self) -> Result<()> {
        match self.writer().await {
            Ok(writer) if !writer.is_alive().await => Err(gone()),
            Ok(_) | Err(StoreError::NotOwner) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives the right back.
    pub async fn close(&self) {
        *self.state.lock().await = State::Stranger;
    }
}

impl Writer {
    async fn is_alive(&self) -> bool {
        matches!(timeout(COMMIT_DEADLINE, self.session.client.simple_query("")).await, Ok(Ok(_)))
    }
}

/// What came of a try at the lock.
enum Attempt {
    Taken(Backend, Statements),
    /// By another, or by a session of our own that is about to end.
    Held,
    /// It was ours, and another has had it since.
    Replaced,
}

fn gone() -> StoreError {
    StoreError::Unavailable("the connection that commits is gone".to_owned())
}
