//! A network of its own for one process: a namespace with two cables to this one. One is for those who call the process,
//! the other for whom it calls, and only that one is cut.

use std::net::Ipv4Addr;

use crate::tools::{is_running, output, path_of, run, try_run};

const PREFIX: &str = "hpf";

/// Removed with its cables.
pub struct Network {
    name: String,
    cable_in: String,
    cable_out: String,
    /// Other runs of these tests have other addresses.
    net: u8,
}

impl Network {
    pub fn new() -> Self {
        sweep();
        let pid = std::process::id();
        let net = u8::try_from(pid % 120 * 2).expect("it is below 240");
        let [name, cable_in, cable_out] = ["", "i", "o"].map(|end| format!("{PREFIX}{end}{pid}"));
        let network = Self { name, cable_in, cable_out, net };
        let name = &*network.name;
        run("ip", &["netns", "add", name]);
        for (n, cable) in [(net, &network.cable_in), (net + 1, &network.cable_out)] {
            let peer = format!("{cable}p");
            run("ip", &["link", "add", cable, "type", "veth", "peer", "name", &peer, "netns", name]);
            run("ip", &["addr", "add", &format!("10.203.{n}.1/24"), "dev", cable]);
            run("ip", &["link", "set", cable, "up"]);
            run("ip", &["-n", name, "addr", "add", &format!("10.203.{n}.2/24"), "dev", &peer]);
            run("ip", &["-n", name, "link", "set", &peer, "up"]);
        }
        run("ip", &["-n", name, "link", "set", "lo", "up"]);
        network
    }

    /// What starts a program inside.
    pub fn prefix(&self) -> Vec<String> {
        [&path_of("ip"), "netns", "exec", &self.name].map(str::to_owned).into()
    }

    /// Where the process listens.
    pub fn inside(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 203, self.net, 2)
    }

    /// At the end of the cable that is cut.
    pub fn outside(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 203, self.net + 1, 1)
    }

    /// Nothing that the process sends arrives, and nobody tells it.
    pub fn cut(&self) {
        run("ip", &["link", "set", &self.cable_out, "down"]);
    }

    pub fn heal(&self) {
        run("ip", &["link", "set", &self.cable_out, "up"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A cable goes with either end.
        try_run("ip", &["link", "del", &self.cable_in]);
        try_run("ip", &["link", "del", &self.cable_out]);
        try_run("ip", &["netns", "del", &self.name]);
    }
}

/// Removes what runs that were killed have left.
fn sweep() {
    let list = output("ip", &["netns", "list"]).map(|list| list.stdout).unwrap_or_default();
    for name in String::from_utf8_lossy(&list).lines().filter_map(|line| line.split_whitespace().next()) {
        if name.strip_prefix(PREFIX).and_then(|pid| pid.parse().ok()).is_some_and(|pid| !is_running(pid)) {
            try_run("ip", &["netns", "del", name]);
        }
    }
}
