//! Redis killed, emptied and hanging: slower at most.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::ledger::producer::Producer;
use crate::ledger::receiver::Moods;
use crate::settings;
use crate::stage::{Backend, Stage};

/// Events for each figure, and how often each is taken: the best counts, since a busy machine has bad moments of its own.
const EVENTS: usize = 150;
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);
/// What other tests on the same cores add to a tail of so few events; one call that waited for Redis would cost 250 ms.
const NOISE: Duration = Duration::from_millis(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_emptied_or_hanging_makes_it_slower_and_nothing_else() {
    let mut stage = Stage::new(Backend::Postgres, settings::seed(0)).await;
    stage.scene.receiver.set_moods(Moods::GOOD);
    let node = stage.open().await;
    let producer = stage.produce();
    // The first are slower: connections are made, actors are started.
    p99(&producer).await;
    let mut best = [Duration::MAX; 4];
    for _ in 0..ROUNDS {
        let with = p99(&producer).await;
        stage.cache().kill();
        let killed = p99(&producer).await;
        stage.cache().restart();
        empty(stage.cache().port);
        let emptied = p99(&producer).await;
        stage.cache().hang();
        let hanging = p99(&producer).await;
        stage.cache().go_on();
        best = std::array::from_fn(|i| best[i].min([with, killed, emptied, hanging][i]));
    }
    let counts = producer.counts();
    assert_eq!((counts.refused, counts.unknown), (0, 0), "slower, and nothing else");

    // A process that starts meanwhile does not wait for it either.
    stage.cache().hang();
    let (code, _) = node.terminate().await;
    assert_eq!(code, Some(0));
    let _node = stage.start().await;
    let started = p99(&producer).await;
    stage.cache().go_on();
    producer.stop().await;
    let verdict = stage.settle(&stage.api).await;
    let [with, killed, emptied, hanging] = best;
    println!(
        "ack p99 with Redis {with:.1?}; killed {killed:.1?}, emptied {emptied:.1?}, hanging {hanging:.1?}; started while it hung {started:.1?}"
    );
    println!("{verdict}");
    verdict.assert_clean();
    for without in [killed, emptied, hanging] {
        assert!(without <= with * 2 + NOISE, "{without:?} without, {with:?} with");
    }
}

async fn p99(producer: &Producer) -> Duration {
    producer.forget_acks();
    producer.more_ok(EVENTS, PATIENCE).await;
    producer.ack_p99()
}

/// `FLUSHALL`, as somebody with a terminal would type it.
fn empty(port: u16) {
    let mut redis = TcpStream::connect(("127.0.0.1", port)).expect("it runs");
    redis.write_all(b"FLUSHALL\r\n").expect("it reads");
    let mut answer = [0; 5];
    redis.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"+OK\r\n");
}
