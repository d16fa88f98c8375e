//! Two owners of one store: the first is paused until its session is ended and the second has taken over, and then goes on.

use std::time::Duration;

use crate::ledger::api::{Api, MAX_CONCURRENCY};
use crate::ledger::postgres::poll;
use crate::ledger::producer::Plan;
use crate::ledger::verdict::Verdict;
use crate::settings;
use crate::stage::{Backend, Stage};

const PATIENCE: Duration = Duration::from_secs(20);
/// From the end of the first one's session to the second one accepting: a standby asks twice a second.
const TAKE_OVER: Duration = Duration::from_secs(5);
/// How long a process may take to find out that the store is another's, and to end.
const STALE_EXIT: Duration = Duration::from_secs(10);

/// What became of it all.
pub struct Story {
    pub verdict: Verdict,
    /// Events that the first one answered with 2xx after the second had taken over.
    pub stale_acks: usize,
    /// The first one's exit code; `None` if it had not ended by itself.
    pub exit: Option<i32>,
    pub log: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_paused_past_its_session_writes_nothing_more_and_ends() {
    let stage = Stage::new(Backend::Postgres, settings::seed(0)).await;
    let story = two_owners(stage).await;
    println!("two owners: {}", story.verdict);
    assert_eq!(story.stale_acks, 0, "it acknowledges nothing");
    assert_eq!(story.exit, Some(1), "it ends: {:#?}", story.log);
    assert!(story.log.iter().any(|line| line.contains("another process owns this store")), "{:#?}", story.log);
    // Its log rows would be second ones of attempts that its successor has made again.
    story.verdict.assert_clean();
    let subscriptions = 3;
    assert!(story.verdict.duplicates <= MAX_CONCURRENCY * subscriptions, "one window each: {}", story.verdict);
}

/// The scenario.
pub async fn two_owners(mut stage: Stage) -> Story {
    let mut first = stage.open().await;
    let second_program = stage.program.beside();
    let _second = second_program.start().await;
    let second = Api::at(second_program.addr());
    assert!(!second.is_ready().await, "it stands by");
    let producer = stage.produce();
    producer.more_ok(100, PATIENCE).await;

    first.signal("STOP").await;
    let paused = stage.scene.receiver.now_ms();
    // What keep-alives do for a peer that does not answer.
    assert!(stage.cluster().end_owner().await, "it had the right to commit");
    let took = second.ready_within(TAKE_OVER).await;
    println!("the second took over after {took:.1?}");
    // It makes again what the first had under way.
    stage.scene.receiver.more(30, PATIENCE).await;
    first.signal("CONT").await;
    producer.stop().await;

    let stale = stage.produce();
    let exit = exit_of(&mut first, STALE_EXIT).await;
    let stale_acks = stale.stop().await.ok;
    // What the first still held in memory and started after its pause counts as under way when it lost the store.
    stage.scene.was_replaced_since(paused);
    let log = first.log().lines();
    if exit.is_none() {
        first.kill().await;
    }
    let addresses = vec![second_program.addr()];
    let last = stage.scene.produce(Plan { addresses, ..stage.plan() });
    last.more_ok(50, PATIENCE).await;
    last.stop().await;
    let verdict = stage.settle(&second).await;
    Story { verdict, stale_acks, exit, log }
}

/// Its exit code, if it ends in time.
async fn exit_of(node: &mut crate::ledger::node::Node, patience: Duration) -> Option<i32> {
    let mut look = poll();
    let ended = async {
        loop {
            look.tick().await;
            if let Some(status) = node.ended() {
                return status.code();
            }
        }
    };
    tokio::time::timeout(patience, ended).await.ok().flatten()
}
