//! A ledger kept by outsiders. A producer writes down what it was answered, a receiver what it got, each in a file of its
//! own; the real program stands between them and is killed, stopped and starved. What the two files and the attempt log say
//! together is the verdict: `verdict.rs` names every way in which they can disagree.

#![allow(dead_code, reason = "each test binary uses its part of it")]

pub mod api;
pub mod chance;
pub mod node;
pub mod notes;
pub mod postgres;
pub mod producer;
pub mod receiver;
#[path = "../cache/server.rs"]
#[allow(clippy::unwrap_used, reason = "its first home allows it to all of its files")]
pub mod redis;
pub mod scene;
pub mod signatures;
pub mod verdict;

use std::net::TcpListener;

use self::chance::Chance;

/// Ports tried: another process may take a free one.
const PORT_TRIES: usize = 100;

/// A free port below those that the kernel gives to outgoing connections, so that it is still free after a kill.
pub fn fixed_port() -> u16 {
    let mut chance = Chance::new(rand::random());
    (0..PORT_TRIES)
        .map(|_| 20_000 + u16::try_from(chance.below(12_000)).expect("it is below"))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("one of the ports tried is free")
}
