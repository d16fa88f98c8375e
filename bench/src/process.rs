//! A process under test: the service or the bare relay, started as an operator would, and what the kernel says of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long a process may take to listen, migrations and recovery included.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// 32 zero bytes in base64: what it keeps is gone after the run.
const MASTER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

pub struct Process {
    child: Child,
    pub addr: SocketAddr,
}

/// What the kernel has counted for a process so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// User and system time, in microseconds; the kernel counts in hundredths of a second.
    pub cpu_us: u64,
    /// The most that was ever resident.
    pub peak_kib: u64,
    pub resident_kib: u64,
}

impl Process {
    /// The release build of the service.
    pub async fn service(environment: &[(&str, String)]) -> anyhow::Result<Self> {
        let mut command = Command::new(beside_this_program("hookpost")?);
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        // Who calls is no part of what is measured.
        command.env("HOOKPOST_AUTH", "off");
        // As in production: no line per delivery.
        command.env("HOOKPOST_LOG", "info").env("HOOKPOST_LOG_FORMAT", "json");
        command.env("HOOKPOST_ALLOW_TARGETS", "127.0.0.0/8");
        command.env("HOOKPOST_MASTER_KEY", MASTER_KEY);
        command.envs(environment.iter().map(|(name, value)| (*name, value.clone())));
        Self::start(command).await
    }

    /// The bare relay, this program in another role.
    pub async fn relay(target: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["relay", target]);
        Self::start(command).await
    }

    /// The positive control, this program in another role.
    pub async fn shared_pool() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("one-pool");
        Self::start(command).await
    }

    async fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.as_std().get_program()))?;
        let stderr = child.stderr.take().context("no stderr")?;
        let addr = tokio::time::timeout(START_TIMEOUT, listening_at(stderr)).await??;
        Ok(Self { child, addr })
    }

    pub fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.child.id().context("it has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name may hold spaces; the fields count from its closing bracket.
        let fields: Vec<_> = stat.rsplit_once(')').context("a name")?.1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a line of status")?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        Ok(Usage { cpu_us: ticks * 10_000, peak_kib: kib("VmHWM:")?, resident_kib: kib("VmRSS:")? })
    }

    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Reads the log up to the line that names the address, and goes on reading, so that the process never waits for us.
async fn listening_at(stderr: tokio::process::ChildStderr) -> anyhow::Result<SocketAddr> {
    let mut lines = BufReader::new(stderr).lines();
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await? {
        if let Some(at) = line.find("http://127.0.0.1:") {
            let rest = &line[at + "http://".len()..];
            let addr: String = rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
            tokio::spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    // A warning in a benchmark is worth more than the figure.
                    eprintln!("  {line}");
                }
            });
            return Ok(addr.parse()?);
        }
        seen.push(line);
    }
    bail!("it ended before it listened:\n{}", seen.join("\n"))
}

fn beside_this_program(name: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.parent().unwrap_or(Path::new(".")).join(name);
    if !program.exists() {
        bail!("{} is missing: run `make bench`, which builds it", program.display());
    }
    Ok(program)
}
