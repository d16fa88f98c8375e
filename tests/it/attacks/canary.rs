//! Listeners that nobody may connect to.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Stands where something private would be.
pub struct Canary(TcpListener);

impl Canary {
    pub fn start() -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub fn at(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).expect("a free port");
        listener.set_nonblocking(true).expect("an option");
        Self(listener)
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.addr())
    }

    /// A connection is in the listener's queue as soon as the other side has made it: there is nothing to wait for.
    #[track_caller]
    pub fn assert_untouched(&self) {
        match self.0.accept() {
            Ok((_, from)) => panic!("{from} connected to the canary"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}
