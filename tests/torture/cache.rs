//! Redis killed, emptied and hanging: slower at most.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::ledger::producer::Producer;
use crate::ledger::receiver::Moods;
use crate::settings;
use crate::stage::{Backend, Stage};

/// Events for each figure.
const EVENTS: usize = 300;
const PATIENCE: Duration = Duration::from_secs(30);
/// What a busy machine adds to a tail of so few events.
const NOISE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_emptied_or_hanging_makes_it_slower_and_nothing_else() {
    let mut stage = Stage::new(Backend::Postgres, settings::seed(0)).await;
    stage.scene.receiver.set_moods(Moods::GOOD);
    let node = stage.open().await;
    let producer = stage.produce();
    // The first are slower: connections are made, actors are started.
    p99(&producer).await;
    let with = p99(&producer).await;
    stage.cache().kill();
    let killed = p99(&producer).await;
    stage.cache().restart();
    empty(stage.cache().port);
    let emptied = p99(&producer).await;
    stage.cache().hang();
    let hanging = p99(&producer).await;

    // A process that starts meanwhile does not wait for it either.
    let (code, _) = node.terminate().await;
    assert_eq!(code, Some(0));
    let _node = stage.start().await;
    let started = p99(&producer).await;
    stage.cache().go_on();
    producer.stop().await;
    let verdict = stage.scene.settle(&stage.api).await;
    println!(
        "ack p99 with Redis {with:.1?}, killed {killed:.1?}, emptied {emptied:.1?}, hanging {hanging:.1?}, started while it hung {started:.1?}; {verdict}"
    );
    verdict.assert_clean();
    for worse in [killed, emptied, hanging] {
        assert!(worse <= with * 2 + NOISE, "{worse:?} without, {with:?} with");
    }
}

async fn p99(producer: &Producer) -> Duration {
    producer.forget_acks();
    let before = producer.counts();
    producer.more_ok(EVENTS, PATIENCE).await;
    let after = producer.counts();
    println!("  refused {}, unknown {}", after.refused - before.refused, after.unknown - before.unknown);
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
