//! The real program in a process of its own, as an operator runs it.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;

use crate::app::{Home, client, send};
use crate::receiver::PATIENCE;

/// Ends with the test.
pub struct Process {
    child: Child,
    pub base: String,
    log: Log,
    /// Removed after it.
    _home: Arc<Home>,
}

/// What it has logged so far.
#[derive(Clone)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Sender<usize>,
}

impl Process {
    pub async fn start(home: &Arc<Home>) -> Self {
        Self::start_with(home, &[]).await
    }

    /// With these variables besides.
    pub async fn start_with(home: &Arc<Home>, variables: &[(&str, &str)]) -> Self {
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
        command.envs(variables.iter().copied());
        let mut child = command.spawn().expect("the program starts");
        let log = Log { lines: Arc::default(), count: watch::Sender::new(0) };
        tokio::spawn(log.clone().keep(child.stderr.take().expect("its log")));
        let line = log.first(|line| line.contains("http://127.0.0.1:")).await;
        let line: Value = serde_json::from_str(&line).expect("JSON");
        Self { child, base: line["url"].as_str().expect("a URL").to_owned(), log, _home: home.clone() }
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let request = client().request(Method::POST, format!("{}{path}", self.base)).body(body.to_string());
        let answer = send(request).await;
        assert!(answer.status.is_success(), "{answer:?} {:#?}", self.log());
        answer.json()
    }

    /// The first line of the log that is like this, now or later.
    pub async fn logged(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.log.first(wanted).await
    }

    /// All of the log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().expect("unpoisoned").clone()
    }

    pub async fn kill(mut self) {
        self.child.kill().await.expect("it was running");
    }

    /// Sends SIGTERM and waits for the exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill runs").success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it exits in time").expect("a status").code()
    }
}

impl Log {
    /// Reads to the end, so that the program never waits for us.
    async fn keep(self, stderr: ChildStderr) {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.lines.lock().expect("unpoisoned").push(line);
            self.count.send_modify(|count| *count += 1);
        }
    }

    async fn first(&self, wanted: impl Fn(&str) -> bool) -> String {
        let found = || self.lines.lock().expect("unpoisoned").iter().find(|line| wanted(line)).cloned();
        let mut count = self.count.subscribe();
        let waited = tokio::time::timeout(PATIENCE, count.wait_for(|_| found().is_some())).await.is_ok();
        assert!(waited, "it did not say so: {:#?}", self.lines.lock().expect("unpoisoned"));
        found().expect("it was there")
    }
}
