//! The real program as a child process on a fixed port, so that whoever knows its address knows it after a kill, too.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::fixed_port;
use super::postgres::poll;

/// How long a start may take, migrations and recovery on a busy machine included.
pub const START_PATIENCE: Duration = Duration::from_secs(60);
/// The deadline of an attempt in these tests: a receiver that hangs costs as much.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1000);
/// How much longer than an attempt may take a stop may: the drain's margin, and the exit itself.
pub const STOP_MARGIN: Duration = Duration::from_secs(1);
/// Never spent: what the receiver refuses by draw is tried again until it is good. At most 32 waits are allowed.
const RETRIES: usize = 31;

/// What it says when it has its port, and when it cannot have it.
const LISTENS: &str = "hookpost listens";
const PORT_TAKEN: &str = "cannot listen on";

/// How to start it, again and again.
#[derive(Clone, Debug)]
pub struct Program {
    binary: PathBuf,
    /// What starts it, if anything does: a program and its arguments.
    prefix: Vec<String>,
    ip: IpAddr,
    port: u16,
    environment: BTreeMap<String, String>,
}

/// One life of it. Ends with the test.
pub struct Node {
    child: Child,
    log: Log,
    started: Instant,
}

/// What it has logged so far; kept beyond its end.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// How many lines there are, and whether more can come.
    count: watch::Sender<(usize, bool)>,
}

impl Program {
    /// On the embedded store in `dir`, unless `DATABASE_URL` is set with [`Self::with`].
    pub fn new(dir: &Path) -> Self {
        let waits = vec!["100ms"; RETRIES].join(",");
        let timeout = format!("{}ms", ATTEMPT_TIMEOUT.as_millis());
        let data = dir.join("data").display().to_string();
        let environment = [
            ("HOOKPOST_DATA_DIR", data.as_str()),
            ("HOOKPOST_RETRY_SCHEDULE", &waits),
            ("HOOKPOST_ATTEMPT_TIMEOUT", &timeout),
            ("HOOKPOST_LOG_FORMAT", "json"),
            ("HOOKPOST_LOG", "info"),
        ];
        Self {
            binary: env!("CARGO_BIN_EXE_hookpost").into(),
            prefix: Vec::new(),
            ip: Ipv4Addr::LOCALHOST.into(),
            port: fixed_port(),
            environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        }
    }

    /// With this variable besides, or in place of what it was.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Another binary, such as one that breaks a promise on purpose.
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = path.to_owned();
        self
    }

    /// Started by another program, such as one that puts it into a network of its own.
    pub fn through(mut self, prefix: &[String]) -> Self {
        self.prefix = prefix.to_vec();
        self
    }

    /// Where it listens, if not on loopback.
    pub fn listening(mut self, ip: IpAddr) -> Self {
        self.ip = ip;
        self
    }

    /// The same on another port: a second process on the same store.
    pub fn beside(&self) -> Self {
        Self { port: fixed_port(), ..self.clone() }
    }

    pub fn addr(&self) -> SocketAddr {
        (self.ip, self.port).into()
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&self) -> Node {
        let mut line = self.prefix.iter().map(OsStr::new).chain([self.binary.as_os_str()]);
        let mut child = Command::new(line.next().expect("a program"))
            .args(line)
            .args(["serve", "--dev", "--listen", &self.addr().to_string()])
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.binary.display()));
        let log = Log { lines: Arc::default(), count: watch::Sender::new((0, true)) };
        tokio::spawn(log.clone().keep(child.stderr.take().expect("its log")));
        Node { child, log, started: Instant::now() }
    }

    /// Starts it and waits until it listens. Again, for a while, if another program has its port.
    pub async fn start(&self) -> Node {
        let (begun, mut again) = (Instant::now(), poll());
        loop {
            again.tick().await;
            let node = self.spawn();
            let said = |line: &str| line.contains(LISTENS) || line.contains(PORT_TAKEN);
            node.log.first("whether it listens", said).await;
            if begun.elapsed() > START_PATIENCE || !node.log.has(PORT_TAKEN) {
                node.listens().await;
                return node;
            }
        }
    }
}

impl Node {
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until it listens: it has recovered, or stands by.
    pub async fn listens(&self) {
        self.log.first(LISTENS, |line| line.contains(LISTENS)).await;
    }

    /// Lets so much time pass while it runs. It must not end by itself meanwhile.
    pub async fn run_for(&mut self, long: Duration) {
        if let Ok(status) = timeout(long, self.child.wait()).await {
            panic!("it ended by itself with {status:?}: {:#?}", self.log.lines());
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a status")
    }

    /// SIGKILL, and gone when this returns.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// A signal by name: `TERM`, `STOP`, `CONT`.
    pub async fn signal(&self, name: &str) {
        signal(self.pid(), name).await;
    }

    /// Waits for its end.
    pub async fn exit(&mut self, patience: Duration) -> ExitStatus {
        match timeout(patience, self.child.wait()).await {
            Ok(status) => status.expect("a status"),
            Err(_) => panic!("it still runs after {patience:?}: {:#?}", self.log.lines()),
        }
    }

    /// SIGTERM, and its exit code and how long that took, which must be no longer than an attempt and a margin.
    pub async fn terminate(self) -> (Option<i32>, Duration) {
        self.terminate_within(ATTEMPT_TIMEOUT + STOP_MARGIN).await
    }

    /// The same with another limit.
    pub async fn terminate_within(mut self, limit: Duration) -> (Option<i32>, Duration) {
        let asked = Instant::now();
        self.signal("TERM").await;
        let status = self.exit(limit).await;
        (status.code(), asked.elapsed())
    }
}

/// Through the shell's `kill`: no unsafe code, and no crate for it.
pub async fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().await;
    assert!(sent.expect("kill runs").success(), "SIG{name} could not be sent to {pid}");
}

impl Log {
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("unpoisoned").clone()
    }

    pub fn has(&self, text: &str) -> bool {
        self.lines.lock().expect("unpoisoned").iter().any(|line| line.contains(text))
    }

    /// Reads to the end, so that the program never waits for us.
    async fn keep(self, stderr: ChildStderr) {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.lines.lock().expect("unpoisoned").push(line);
            self.count.send_modify(|(count, _)| *count += 1);
        }
        self.count.send_modify(|(_, more)| *more = false);
    }

    /// The first line that is like this, now or later.
    pub async fn first(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let found = || self.lines.lock().expect("unpoisoned").iter().find(|line| wanted(line)).cloned();
        let mut count = self.count.subscribe();
        let _ = timeout(START_PATIENCE, count.wait_for(|(_, more)| found().is_some() || !more)).await;
        found().unwrap_or_else(|| panic!("it did not say {what:?}: {:#?}", self.lines()))
    }
}
