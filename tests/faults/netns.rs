//! A network of its own for one process: a namespace with two cables to this one. One is for those who call the process,
//! the other for whom it calls, and only that one is cut.

use std::net::Ipv4Addr;

use crate::tools::{path_of, run, try_run};

/// Inside of the namespace, where the process listens.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 203, 1, 2);
/// Outside, at the end of the cable that is cut.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 203, 2, 1);
/// The network of [`OUTSIDE`].
pub const OUTSIDE_RANGE: &str = "10.203.2.0/24";

/// Removed with its cables.
pub struct Network {
    name: String,
}

impl Network {
    pub fn new() -> Self {
        // A run that was killed may have left its own.
        Self::remove_old();
        let network = Self { name: format!("hpf{}", std::process::id()) };
        let name = &*network.name;
        run("ip", &["netns", "add", name]);
        for (n, cable) in [(1, "hpf-in"), (2, "hpf-out")] {
            let peer = format!("{cable}-p");
            run("ip", &["link", "add", cable, "type", "veth", "peer", "name", &peer, "netns", name]);
            run("ip", &["addr", "add", &format!("10.203.{n}.1/24"), "dev", cable]);
            run("ip", &["link", "set", cable, "up"]);
            run("ip", &["-n", name, "addr", "add", &format!("10.203.{n}.2/24"), "dev", &peer]);
            run("ip", &["-n", name, "link", "set", &peer, "up"]);
        }
        run("ip", &["-n", name, "link", "set", "lo", "up"]);
        network
    }

    fn remove_old() {
        for cable in ["hpf-in", "hpf-out"] {
            try_run("ip", &["link", "del", cable]);
        }
    }

    /// What starts a program inside.
    pub fn prefix(&self) -> Vec<String> {
        [&path_of("ip"), "netns", "exec", &self.name].map(str::to_owned).into()
    }

    /// Nothing that the process sends arrives, and nobody tells it.
    pub fn cut(&self) {
        run("ip", &["link", "set", "hpf-out", "down"]);
    }

    pub fn heal(&self) {
        run("ip", &["link", "set", "hpf-out", "up"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        Self::remove_old();
        try_run("ip", &["netns", "del", &self.name]);
    }
}
