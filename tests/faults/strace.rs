//! Syncs that fail: strace steps in before the kernel does.

use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::PATIENCE;
use crate::tools::signal;

/// What becomes of a sync.
#[derive(Clone, Copy, Debug)]
pub enum Syncs {
    /// Fails, and syncs nothing.
    Fail,
    /// Of each thread's the third fails, and every fifth after it.
    FailNowAndThen,
    /// Succeeds, and syncs nothing.
    Lie,
}

/// Attached to processes, and to those that they start, until it is dropped.
pub struct Strace {
    child: Child,
    dir: TempDir,
}

impl Strace {
    /// Returns once no sync of any of them gets through.
    pub async fn attach(syncs: Syncs, pids: &[u32]) -> Self {
        let what = match syncs {
            Syncs::Fail => "error=EIO",
            Syncs::FailNowAndThen => "error=EIO:when=3+5",
            Syncs::Lie => "retval=0",
        };
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("strace");
        command.args(["-f", "-e", "trace=fsync,fdatasync,sync_file_range,msync", "-e"]);
        command.arg(format!("inject=fsync,fdatasync:{what}")).arg("-o").arg(dir.path().join("trace"));
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("strace");
        let mut lines = BufReader::new(child.stderr.take().expect("its messages")).lines();
        let attached = async {
            let mut left = pids.len();
            while left > 0 {
                let line = lines.next_line().await.expect("text").expect("strace goes on");
                assert!(!line.contains("Operation not permitted"), "{line}");
                left -= usize::from(line.contains(" attached"));
            }
        };
        tokio::time::timeout(PATIENCE, attached).await.expect("strace attaches");
        // Read to the end, so that it never waits for us.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, dir }
    }

    fn trace(&self) -> PathBuf {
        self.dir.path().join("trace")
    }

    /// How many syncs it has stepped in before, so far.
    pub fn injected(&self) -> usize {
        let trace = std::fs::read_to_string(self.trace()).unwrap_or_default();
        trace.matches("(INJECTED)").count()
    }

    /// Lets the syncs through again; how many it has stepped in before.
    pub async fn detach(mut self) -> usize {
        signal("INT", &[self.child.id().expect("it runs")]);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("strace detaches").expect("a status");
        self.injected()
    }
}
