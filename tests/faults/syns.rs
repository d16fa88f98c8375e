//! Who tries to connect, and when: all that a machine sees of a connection that it refuses or lets hang. The kernel's time
//! of each SYN; through Python, because a raw socket takes what this crate forbids.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::PATIENCE;

/// An empty line once it listens; then the port that is called, the caller's, and the time of each SYN.
const WATCH: &str = r#"
import socket, struct, sys
SO_TIMESTAMPNS = 35
seen = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
seen.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
seen.bind((sys.argv[1], 0))
print(flush=True)
while True:
    packet, extra, _, _ = seen.recvmsg(65535, 64)
    seconds, nanos = struct.unpack("qq", extra[0][2])
    tcp = packet[(packet[0] & 15) * 4:]
    if tcp[13] & 0x12 == 2:
        print(*struct.unpack(">HH", tcp[:4])[::-1], seconds * 10**9 + nanos, flush=True)
"#;

/// Ends when it is dropped.
pub struct Syns {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Syns {
    /// Of those that call this address, from now on.
    pub async fn to(ip: Ipv4Addr) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", WATCH, &ip.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("python3");
        let mut lines = BufReader::new(child.stdout.take().expect("its lines")).lines();
        let listens = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        assert_eq!(listens.expect("it listens").expect("text").as_deref(), Some(""));
        Self { lines, _child: child }
    }

    /// When each connection was begun, by the port that was called, once there are so many. A SYN that is repeated begins
    /// none.
    pub async fn connections(mut self, count: usize) -> BTreeMap<u16, Vec<Duration>> {
        let (mut begun, mut known) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
        let read = async {
            while known.len() < count {
                let line = self.lines.next_line().await.expect("text").expect("it goes on");
                let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
                let [to, from, nanos] = numbers[..] else { panic!("not a SYN: {line}") };
                if known.insert((to, from)) {
                    begun.entry(to as u16).or_default().push(Duration::from_nanos(nanos));
                }
            }
        };
        let came = tokio::time::timeout(PATIENCE, read).await.is_ok();
        assert!(came, "{} connections of {count} after {PATIENCE:?}", known.len());
        begun
    }
}
