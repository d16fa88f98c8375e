//! What this machine has of what a scenario needs, and the commands that are run with it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Where Debian, Fedora and others keep the library.
const FAKETIME: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];

/// Enough for an empty ext4.
const TRIED_BYTES: u64 = 8 * 1024 * 1024;
const NOBODY: u32 = 65534;

/// What a scenario cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// An ext4 image that can be mounted, which a container may forbid to root.
    LoopMount,
    /// A server of the test's own.
    Postgres,
    /// Debian's `strace`, and the right to attach to a process.
    Strace,
    /// Debian's `libfaketime`.
    Faketime,
    /// Debian's `iproute2`, and the right to make a namespace.
    NetworkNamespace,
    /// What Python sees SYNs with.
    RawSocket,
    /// Debian's `util-linux`.
    Prlimit,
    /// The program built with `--features negative-controls`.
    NegativeControls,
}

impl Need {
    /// What is missing, in words; `None` when it is here.
    pub fn missing(self) -> Option<String> {
        let (here, what) = match self {
            Self::LoopMount => {
                (is_root() && loop_mount_works(), "root and loop mounts of ext4 (e2fsprogs, util-linux)")
            }
            Self::Postgres => (has_postgres(), "PostgreSQL's server"),
            Self::Strace => (strace_attaches(), "strace, allowed to attach"),
            Self::Faketime => (faketime().is_some(), "libfaketime"),
            Self::NetworkNamespace => (is_root() && namespace_works(), "root and network namespaces (iproute2)"),
            Self::RawSocket => (is_root() && raw_socket_works(), "root and raw sockets (python3)"),
            Self::Prlimit => (succeeds("prlimit", &["--version"]), "prlimit (util-linux)"),
            Self::NegativeControls => (controls().is_file(), "the program with the feature negative-controls"),
        };
        (!here).then(|| format!("needs {what}"))
    }
}

pub fn faketime() -> Option<&'static Path> {
    FAKETIME.iter().map(Path::new).find(|path| path.is_file())
}

/// The program that can be told to break a promise; it lies beside the one under test.
pub fn controls() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_hookpost")).with_file_name("hookpost-negative-controls")
}

fn is_root() -> bool {
    output("id", &["-u"]).is_some_and(|id| id.stdout == b"0\n")
}

fn has_postgres() -> bool {
    succeeds("sh", &["-c", "command -v initdb || ls /usr/lib/postgresql/*/bin/initdb"])
}

/// Tried once: a container may have the tools and forbid the mount.
fn loop_mount_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, mount) = (dir.path().join("disk.img"), dir.path().join("mnt"));
        std::fs::create_dir(&mount).expect("a directory");
        File::create(&file).and_then(|file| file.set_len(TRIED_BYTES)).expect("a sparse file");
        let (file, mount) = (file.to_string_lossy(), mount.to_string_lossy());
        succeeds("mkfs.ext4", &["-q", "-F", &file])
            && succeeds("mount", &["-t", "ext4", "-o", "loop", &file, &mount])
            && succeeds("umount", &[&mount])
    })
}

/// Tried once, with a cable: either may be forbidden.
fn namespace_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let name = format!("hpt{}", std::process::id());
        let peer = format!("{name}p");
        let made = succeeds("ip", &["netns", "add", &name])
            && succeeds("ip", &["link", "add", &name, "type", "veth", "peer", "name", &peer, "netns", &name]);
        // The cable goes with it.
        succeeds("ip", &["netns", "del", &name]);
        made
    })
}

fn raw_socket_works() -> bool {
    let open = "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)";
    succeeds("python3", &["-c", open])
}

/// Tried once, on a process of another user if there can be one, as PostgreSQL's are.
fn strace_attaches() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let mut waiting = Command::new("cat");
        waiting.stdin(Stdio::piped()).stdout(Stdio::null());
        if is_root() {
            waiting.uid(NOBODY);
        }
        let Ok(mut waiting) = waiting.spawn() else { return false };
        let pid = waiting.id().to_string();
        let strace = Command::new("strace").args(["-e", "trace=none", "-p", &pid]).stderr(Stdio::piped()).spawn();
        let attached = strace.is_ok_and(|mut strace| {
            let mut line = String::new();
            let said = BufReader::new(strace.stderr.take().expect("its messages")).read_line(&mut line);
            let _ = (strace.kill(), strace.wait());
            said.is_ok() && line.contains(" attached")
        });
        let _ = (waiting.kill(), waiting.wait());
        attached
    })
}

pub fn output(program: &str, args: &[&str]) -> Option<Output> {
    Command::new(program).args(args).stdin(Stdio::null()).output().ok()
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    output(program, args).is_some_and(|output| output.status.success())
}

pub fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Where a program is, for whoever starts it without a PATH.
pub fn path_of(program: &str) -> String {
    let found = output("sh", &["-c", &format!("command -v {program}")]).expect("a shell");
    String::from_utf8(found.stdout).expect("text").trim().to_owned()
}

/// Runs a command that must succeed.
#[track_caller]
pub fn run(program: &str, args: &[&str]) {
    let output = output(program, args).unwrap_or_else(|| panic!("{program} cannot be run"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The same, where whatever it was for may be gone already.
pub fn try_run(program: &str, args: &[&str]) -> bool {
    succeeds(program, args)
}

/// Sends a signal to processes that the test has started.
pub fn signal(name: &str, pids: &[u32]) {
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    let args: Vec<_> = [format!("-{name}")].into_iter().chain(pids).collect();
    // One of several may have ended meanwhile.
    try_run("kill", &args.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A process and all of its children, theirs too.
pub fn family(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children.flat_map(family)).collect()
}

/// Memory that a process has in RAM, in bytes; 0 when it has ended.
pub fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    kilobytes.unwrap_or(0u64) * 1024
}
