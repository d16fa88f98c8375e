//! A Redis of a test's own, to be killed and stopped.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// Ports tried: another process may take a free one before the server does.
const PORT_TRIES: usize = 20;

/// A server on a port of its own, killed when dropped.
pub struct Server {
    pub port: u16,
    process: Child,
}

impl Server {
    pub fn start() -> Self {
        (0..PORT_TRIES)
            .find_map(|_| {
                let port = free_port();
                start_on(port).map(|process| Self { port, process })
            })
            .expect("no redis-server could be started on any of the ports tried")
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As a crash or the kernel would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, empty, after [`Server::kill`].
    pub fn restart(&mut self) {
        self.process = start_on(self.port).expect("the port of a killed server is free again");
    }

    /// Connections stay open and are accepted, and nothing is answered.
    pub fn hang(&self) {
        self.signal("STOP");
    }

    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Returns when it accepts connections; `None` when it could not have the port.
fn start_on(port: u16) -> Option<Child> {
    let mut process = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-server is needed on the PATH: run make test, or install it");
    let log = BufReader::new(process.stdout.as_mut().unwrap());
    if log.lines().map_while(Result::ok).any(|line| line.contains("Ready to accept connections")) {
        return Some(process);
    }
    process.wait().unwrap();
    None
}
