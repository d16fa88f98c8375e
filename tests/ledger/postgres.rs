//! A PostgreSQL of a test's own: killed, stopped, frozen and started again, all of which a server that others use must
//! not be.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Blocking, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::{Client, NoTls};

use super::fixed_port;
use super::node::signal;

/// How long a start may take, recovery of its log included.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether it answers.
const POLL: Duration = Duration::from_millis(20);

/// See the module's docs. Killed with the test.
pub struct Cluster {
    bin: PathBuf,
    data: PathBuf,
    port: u16,
    /// Who runs it: PostgreSQL refuses root.
    owner: Option<(u32, u32)>,
    settings: Vec<(String, String)>,
    server: Option<Child>,
    /// Removed after it, if it was made here.
    _dir: Option<tempfile::TempDir>,
}

impl Cluster {
    /// In a temporary directory. Not started yet.
    pub fn new() -> Self {
        // Not TMPDIR: root's may be closed to the server's user.
        let dir = tempfile::Builder::new().prefix("hookpost-postgres-").tempdir_in("/tmp").expect("a directory");
        let mut cluster = Self::at(dir.path());
        cluster._dir = Some(dir);
        cluster
    }

    /// In `dir`, which exists, and which every user may reach; the server's user gets it. Not started yet.
    pub fn at(dir: &Path) -> Self {
        let owner = server_user();
        let data = dir.join("postgres");
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(dir, Some(user), Some(group)).expect("root may give it away");
        }
        let bin = bin();
        let arguments = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-D"];
        let mut initdb = Blocking::new(bin.join("initdb"));
        initdb.args(arguments).arg(&data).current_dir("/").stdout(Stdio::null()).stdin(Stdio::null());
        if let Some((user, group)) = owner {
            initdb.uid(user).gid(group);
        }
        assert!(initdb.status().expect("initdb runs").success(), "initdb failed in {}", data.display());
        Self { bin, data, port: fixed_port(), owner, settings: Vec::new(), server: None, _dir: None }
    }

    /// A setting for the next start, such as `synchronous_commit`.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Where its files are.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it has logged, over all starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Starts it and waits until it answers. What a killed one has left behind may keep it from starting for a moment.
    pub async fn start(&mut self) {
        self.spawn();
        self.revive().await;
    }

    /// Waits until it answers, and starts it again if it has ended by itself.
    pub async fn revive(&mut self) {
        let begun = Instant::now();
        let mut look = poll();
        loop {
            look.tick().await;
            if tokio_postgres::connect(&self.url(), NoTls).await.is_ok() {
                return;
            }
            assert!(begun.elapsed() < START_PATIENCE, "PostgreSQL does not start: {}", self.log());
            if self.server.as_mut().expect("it was started").try_wait().expect("a status").is_some() {
                self.spawn();
            }
        }
    }

    /// Starts it and waits for nothing.
    fn spawn(&mut self) {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.log_path()).expect("its log");
        let mut server = Blocking::new(self.bin.join("postgres"));
        server.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]).current_dir("/");
        // No sockets in the file system: their paths may have no more than 107 bytes.
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=100"] {
            server.args(["-c", setting]);
        }
        for (name, value) in &self.settings {
            server.args(["-c", &format!("{name}={value}")]);
        }
        if let Some((user, group)) = self.owner {
            server.uid(user).gid(group);
        }
        let server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let server = Command::from(std::mem::replace(server, Blocking::new("true"))).kill_on_drop(true).spawn();
        self.server = Some(server.expect("postgres starts"));
    }

    /// `kill -9` of the postmaster; its backends end when they notice.
    pub async fn kill(&mut self) {
        self.server.take().expect("it runs").kill().await.expect("it can be killed");
    }

    /// Kills all of it, also when it is frozen. What a copy of its directory in `dir` holds can be started in its place.
    pub async fn on_the_copy_in(mut self, dir: &Path) -> Self {
        for pid in self.pids() {
            signal(pid, "KILL").await;
        }
        let _ = self.server.take().expect("it runs").wait().await;
        self.data = dir.join("postgres");
        self
    }

    /// As `pg_ctl stop -m immediate`: no checkpoint, so the next start recovers.
    pub async fn stop_immediate(&mut self) {
        self.stop("QUIT").await;
    }

    /// As `pg_ctl stop -m fast`: sessions are ended, and everything is written.
    pub async fn stop_fast(&mut self) {
        self.stop("INT").await;
    }

    async fn stop(&mut self, with: &str) {
        let mut server = self.server.take().expect("it runs");
        signal(server.id().expect("it runs"), with).await;
        let ended = tokio::time::timeout(START_PATIENCE, server.wait()).await;
        assert!(ended.is_ok(), "PostgreSQL does not stop: {}", self.log());
    }

    /// Its processes, the postmaster first.
    pub fn pids(&self) -> Vec<u32> {
        let postmaster = self.server.as_ref().and_then(Child::id).expect("it runs");
        let mut pids = vec![postmaster];
        pids.extend(children(postmaster));
        pids
    }

    /// SIGSTOP to all of it: it accepts connections, and says nothing.
    pub async fn freeze(&self) {
        for pid in self.pids() {
            signal(pid, "STOP").await;
        }
    }

    /// SIGCONT to all of it.
    pub async fn thaw(&self) {
        for pid in self.pids() {
            signal(pid, "CONT").await;
        }
    }

    /// A session of the test's own.
    pub async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.expect("PostgreSQL answers");
        tokio::spawn(connection);
        client
    }

    /// Ends the session that holds the right to commit, as keep-alives do when its process is gone. False when none does.
    pub async fn end_owner(&self) -> bool {
        const SQL: &str = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks
             WHERE locktype = 'advisory' AND granted AND classid = 1215261800 AND objid <> 0";
        !self.client().await.query(SQL, &[]).await.expect("a superuser may").is_empty()
    }

    /// Ends one of the service's sessions, whichever comes first. False when it has none.
    pub async fn end_session(&self) -> bool {
        const SQL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'hookpost' ORDER BY random() LIMIT 1";
        !self.client().await.query(SQL, &[]).await.expect("a superuser may").is_empty()
    }
}

/// Also what is frozen, as after a panic between [`Cluster::freeze`] and [`Cluster::thaw`]: a process that is stopped would
/// never notice that its postmaster is gone.
impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.as_ref().and_then(Child::id).is_some() {
            // All at once, or the postmaster starts some again.
            let pids = self.pids().into_iter().map(|pid| pid.to_string());
            let _ = Blocking::new("kill").arg("-KILL").args(pids).stderr(Stdio::null()).status();
        }
    }
}

/// Ticks for looking at a condition until it holds.
pub fn poll() -> tokio::time::Interval {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// On the PATH, or the newest of Debian's, which keeps a directory for each major version off it.
fn bin() -> PathBuf {
    let found = Blocking::new("sh")
        .args(["-c", "command -v initdb || ls /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1"])
        .output()
        .expect("a shell");
    let initdb = String::from_utf8(found.stdout).expect("a path");
    let initdb = fs::canonicalize(initdb.trim()).expect("tests/prerequisites.sh installs PostgreSQL");
    initdb.parent().expect("it is in a directory").to_owned()
}

/// Whom root lets it run as.
fn server_user() -> Option<(u32, u32)> {
    if id(&["-u"]) != Some(0) {
        return None;
    }
    let of = |name: &str| Some((id(&["-u", name])?, id(&["-g", name])?));
    Some(of("postgres").or_else(|| of("nobody")).expect("there is a user whom PostgreSQL does not refuse"))
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Blocking::new("id").args(arguments).stderr(Stdio::null()).output().expect("id runs");
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Linux keeps them here; the parent is the second word after the name, which stands in brackets.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().nth(1).and_then(|word| word.parse().ok()) == Some(parent)
    };
    pids.filter(is_child).collect()
}
