//! What a scenario plays on: a store, the program over it, and a scene around both.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::ledger::api::Api;
use crate::ledger::chance::Chance;
use crate::ledger::node::{Node, Program};
use crate::ledger::postgres::Cluster;
use crate::ledger::producer::{Plan, Producer};
use crate::ledger::receiver::Moods;
use crate::ledger::redis;
use crate::ledger::scene::{STALL, Scene};
use crate::ledger::verdict::Verdict;

/// Besides a slow one; some events are for one of them, some for all.
const SUBSCRIPTIONS: u8 = 2;
/// Attempts a second of the slow one: less than what is accepted for it, so that it falls behind and waits on disk.
const SLOW_PER_SECOND: u32 = 15;
/// How long a program that breaks promises may do nothing before the verdict.
const BROKEN_STALL: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 6;
/// Fast enough that every commit and every window is busy, slow enough that a debug build keeps up between two kills.
pub const PER_SECOND: u32 = 150;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    /// With Redis.
    Postgres,
}

/// Stamps out each scenario for both stores.
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::stage::Backend::Sqlite).await })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::stage::Backend::Postgres).await })*
        }
    };
}
pub(crate) use on_both_stores;

/// See the module's docs.
pub struct Stage {
    pub backend: Backend,
    pub seed: u64,
    pub chance: Chance,
    pub program: Program,
    pub api: Api,
    pub scene: Scene,
    pub postgres: Option<Cluster>,
    pub redis: Option<redis::Server>,
    /// Whether the producer goes as fast as it can.
    pub floods: bool,
    slow: Option<i64>,
    stall: Duration,
    /// Of this process's starts, in the receiver's milliseconds.
    starts_ms: Vec<u64>,
}

impl Stage {
    pub async fn new(backend: Backend, seed: u64) -> Self {
        println!("{backend:?}: TORTURE_SEED={seed}");
        let scene = Scene::new(Moods::MIXED, seed).await;
        let mut program = Program::new(scene.dir());
        let (mut postgres, mut redis) = (None, None);
        if backend == Backend::Postgres {
            let mut cluster = Cluster::new();
            cluster.start().await;
            let cache = redis::Server::start();
            program = program.with("DATABASE_URL", &cluster.url()).with("REDIS_URL", &cache.url());
            (postgres, redis) = (Some(cluster), Some(cache));
        }
        let api = Api::at(program.addr());
        let chance = Chance::new(seed);
        Self {
            backend,
            seed,
            chance,
            program,
            api,
            scene,
            postgres,
            redis,
            floods: false,
            slow: None,
            stall: STALL,
            starts_ms: Vec::new(),
        }
    }

    /// The same with a promise broken on purpose.
    pub async fn broken(backend: Backend, seed: u64, control: &str) -> Self {
        let mut stage = Self::new(backend, seed).await;
        stage.program = stage.program.binary(&broken_binary()).with("NEGATIVE_CONTROL", control);
        stage.stall = BROKEN_STALL;
        stage
    }

    pub async fn start(&mut self) -> Node {
        self.starts_ms.push(self.scene.receiver.now_ms());
        self.program.start().await
    }

    /// Started for the first time, with its subscriptions.
    pub async fn open(&mut self) -> Node {
        let node = self.start().await;
        self.subscribe(&self.api.clone()).await;
        node
    }

    /// Makes the subscriptions, through whichever process delivers.
    pub async fn subscribe(&mut self, api: &Api) {
        self.scene.subscribe(api, SUBSCRIPTIONS).await;
        let limit = json!({ "rate_limit": { "per_second": SLOW_PER_SECOND } });
        self.slow = Some(self.scene.subscribe_with(api, limit).await);
    }

    /// The verdict, once the slow one may go as fast as the others and all is quiet.
    pub async fn settle(&self, api: &Api) -> Verdict {
        api.change(self.slow.expect("it was opened"), json!({ "rate_limit": null })).await;
        self.scene.settle_within(api, self.stall).await
    }

    /// Kills it and notes that.
    pub async fn kill(&mut self, node: Node) {
        let from = self.scene.receiver.now_ms();
        node.kill().await;
        self.scene.died_since(from).await;
    }

    /// Events to this program, from now on.
    pub fn produce(&self) -> Producer {
        self.scene.produce(self.plan())
    }

    pub fn plan(&self) -> Plan {
        Plan {
            addresses: vec![self.program.addr()],
            subscribers: Vec::new(),
            connections: CONNECTIONS,
            per_second: (!self.floods).then_some(PER_SECOND),
            seed: self.seed,
        }
    }

    /// A time up to this, drawn.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        self.chance.up_to(most)
    }

    pub fn cluster(&mut self) -> &mut Cluster {
        self.postgres.as_mut().expect("only PostgreSQL is treated like this")
    }

    pub fn cache(&mut self) -> &mut redis::Server {
        self.redis.as_mut().expect("it comes with PostgreSQL")
    }

    /// How long after each start the first receipt came, if one did before the next start.
    pub fn first_deliveries(&self) -> Vec<Duration> {
        let receipts = crate::ledger::notes::receipts(&self.scene.received_file());
        let ends = self.starts_ms.iter().skip(1).copied().chain([u64::MAX]);
        let first = |(start, end): (&u64, u64)| {
            let first = receipts.iter().map(|receipt| receipt.at_ms).filter(|at| (*start..end).contains(at)).min()?;
            Some(Duration::from_millis(first - start))
        };
        self.starts_ms.iter().zip(ends).filter_map(first).collect()
    }
}

/// What `make controls` builds.
pub fn broken_binary() -> PathBuf {
    let path = PathBuf::from(concat!(env!("CARGO_BIN_EXE_hookpost"), "-negative-controls"));
    assert!(path.exists(), "{} is not there: `make controls` builds it", path.display());
    path
}
