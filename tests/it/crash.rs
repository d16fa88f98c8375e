//! `kill -9` and SIGTERM on the real program.

use std::process::Stdio;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::app::{Backend, Home, client, on_both_stores, send};
use crate::receiver::{PATIENCE, Receiver, Script};

on_both_stores!(
    killed_between_the_202_and_the_delivery_it_delivers_after_the_restart,
    killed_with_a_receiver_that_is_down_it_delivers_when_both_are_back,
    sigterm_finishes_what_is_in_flight_and_exits_with_0,
);

/// The program, as an operator runs it.
struct Process {
    child: Child,
    base: String,
}

impl Process {
    async fn start(home: &Arc<Home>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hookpost"));
        command
            .args(["serve", "--dev", "--listen", "127.0.0.1:0"])
            .env_clear()
            .env("HOOKPOST_DATA_DIR", home.data_dir())
            .env("HOOKPOST_RETRY_SCHEDULE", "100ms,100ms,100ms,100ms,100ms,100ms,100ms,100ms,1h")
            .env("HOOKPOST_LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(url) = home.database_url() {
            command.env("DATABASE_URL", url);
        }
        let mut child = command.spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("its log");
        let base = tokio::time::timeout(PATIENCE, listening_at(stderr)).await.expect("it listens in time");
        Self { child, base }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = client().request(Method::POST, format!("{}{path}", self.base)).body(body.to_string());
        let answer = send(request).await;
        assert!(answer.status.is_success(), "{answer:?}");
        answer.json()
    }

    async fn kill(mut self) {
        self.child.kill().await.expect("it was running");
    }

    /// Sends SIGTERM and waits for the exit code.
    async fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill runs").success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it exits in time").expect("a status").code()
    }
}

/// Reads the log up to the address; the rest is drained, so that the program never waits for us.
async fn listening_at(stderr: tokio::process::ChildStderr) -> String {
    let mut lines = BufReader::new(stderr).lines();
    let mut seen = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(at) = line.find("http://127.0.0.1:") {
            let url: String =
                line[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || ":/.".contains(*c)).collect();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return url.trim_end_matches('/').to_owned();
        }
        seen.push(line);
    }
    panic!("it ended before it listened: {seen:#?}")
}

async fn killed_between_the_202_and_the_delivery_it_delivers_after_the_restart(backend: Backend) {
    let home = Home::new(backend).await;
    let process = Process::start(&home).await;
    // Whatever was sent before the kill stays without an answer, so that nothing counts as delivered.
    let mut receiver = Receiver::start([Script::Hang; 32]).await;
    process.post("/subscriptions", json!({ "target_url": receiver.url() })).await;
    let mut accepted = std::collections::BTreeSet::new();
    for n in 0..40 {
        let answer = process.post("/ingest/1", json!({ "n": n })).await;
        accepted.insert(answer["delivery_id"].as_str().expect("an id").to_owned());
    }
    process.kill().await;
    receiver.unread();
    receiver.answer_from_now_on();

    let _process = Process::start(&home).await;
    while !accepted.is_empty() {
        accepted.remove(receiver.next().await.id());
    }
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
