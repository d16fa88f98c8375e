//! `kill -9` and SIGTERM on the real program.

use std::collections::BTreeSet;

use serde_json::json;

use crate::app::{Backend, Home, client, on_both_stores, send};
use crate::process::Process;
use crate::receiver::{Receiver, Script};

on_both_stores!(
    killed_between_the_202_and_the_delivery_it_delivers_after_the_restart,
    killed_with_a_receiver_that_is_down_it_delivers_when_both_are_back,
    sigterm_finishes_what_is_in_flight_and_exits_with_0,
);

/// Events of the first subscription.
async fn accepted(process: &Process) -> BTreeSet<String> {
    let mut accepted = BTreeSet::new();
    for n in 0..40 {
        let answer = process.post("/ingest/1", json!({ "n": n })).await;
        accepted.insert(answer["delivery_id"].as_str().expect("an id").to_owned());
    }
    accepted
}

async fn receives_all(receiver: &mut Receiver, mut accepted: BTreeSet<String>) {
    while !accepted.is_empty() {
        accepted.remove(receiver.next().await.id());
    }
}

async fn killed_between_the_202_and_the_delivery_it_delivers_after_the_restart(backend: Backend) {
    let home = Home::new(backend).await;
    let process = Process::start(&home).await;
    // Whatever was sent before the kill stays without an answer, so that nothing counts as delivered.
    let mut receiver = Receiver::start([Script::Hang; 32]).await;
    process.post("/subscriptions", json!({ "target_url": receiver.url() })).await;
    let accepted = accepted(&process).await;
    process.kill().await;
    receiver.unread();
    receiver.answer_from_now_on();

    let _process = Process::start(&home).await;
    receives_all(&mut receiver, accepted).await;
}

async fn killed_with_a_receiver_that_is_down_it_delivers_when_both_are_back(backend: Backend) {
    let home = Home::new(backend).await;
    let process = Process::start(&home).await;
    let down = Receiver::reserve().await;
    let addr = down.local_addr().expect("an address");
    drop(down);
    process.post("/subscriptions", json!({ "target_url": format!("http://{addr}/hook") })).await;
    let accepted = process.post("/ingest/1", json!({ "n": 1 })).await;
    process.kill().await;
    let mut receiver = Receiver::start_at(addr, []).await;
    let _process = Process::start(&home).await;
    assert_eq!(receiver.next().await.id(), accepted["delivery_id"]);
}

async fn sigterm_finishes_what_is_in_flight_and_exits_with_0(backend: Backend) {
    let home = Home::new(backend).await;
    let process = Process::start(&home).await;
    let mut receiver = Receiver::start([Script::OnceTold]).await;
    process.post("/subscriptions", json!({ "target_url": receiver.url() })).await;
    let accepted = process.post("/ingest/1", json!({ "n": 1 })).await;
    receiver.next().await;
    let exit = tokio::spawn(process.terminate());
    receiver.tell();
    assert_eq!(exit.await.expect("it ends"), Some(0));

    let process = Process::start(&home).await;
    let path = accepted["status_url"].as_str().expect("a URL");
    let status = send(client().get(format!("{}{path}", process.base))).await.expect(200);
    assert_eq!(status["state"], "delivered", "the log was written before the exit: {status}");
    assert_eq!(receiver.unread().len(), 0, "nothing is sent twice");
}

/// As docs/operations.md has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_made_beside_the_service_delivers_what_was_accepted_before() {
    let (home, restored) = (Home::new(Backend::Sqlite).await, Home::new(Backend::Sqlite).await);
    let process = Process::start(&home).await;
    let mut receiver = Receiver::start([Script::Hang; 32]).await;
    process.post("/subscriptions", json!({ "target_url": receiver.url() })).await;
    let accepted = accepted(&process).await;
    std::fs::create_dir(restored.data_dir()).expect("a directory");
    let [database, backup] = [&home, &restored].map(|home| home.data_dir().join("hookpost.db"));
    let copied = tokio::task::spawn_blocking(move || {
        let database = rusqlite::Connection::open(database).expect("it can be read");
        database.execute("VACUUM INTO ?1", [backup.to_str()]).map(drop)
    });
    while !copied.is_finished() {
        process.post("/ingest/1", json!({})).await;
    }
    copied.await.expect("no panic").expect("a copy");
    process.kill().await;
    receiver.unread();
    receiver.answer_from_now_on();

    let _process = Process::start(&restored).await;
    receives_all(&mut receiver, accepted).await;
}
