//! A wire between the service and what it depends on, that a test can cut: what is behind it is gone for the service, and
//! for nobody else.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Ends with the test's runtime.
pub struct Proxy {
    pub addr: SocketAddr,
    cut: watch::Sender<bool>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let cut = watch::Sender::new(false);
        tokio::spawn(accept(listener, target, cut.subscribe()));
        Self { addr, cut }
    }

    /// In front of the server of this URL; with the URL by which it is reached now.
    pub async fn before(url: &str) -> (Self, String) {
        let mut url = url::Url::parse(url).expect("a URL");
        let target = url.socket_addrs(|| None).expect("an address")[0];
        let proxy = Self::to(target).await;
        url.set_port(Some(proxy.addr.port())).expect("a port");
        (proxy, url.to_string())
    }

    /// Ends every connection, and every new one at once.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, cut: watch::Receiver<bool>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        if !*cut.borrow() {
            tokio::spawn(pass_on(stream, target, cut.clone()));
        }
    }
}

async fn pass_on(mut from: TcpStream, target: SocketAddr, mut cut: watch::Receiver<bool>) {
    let passing = async {
        let mut to = TcpStream::connect(target).await?;
        copy_bidirectional(&mut from, &mut to).await
    };
    tokio::select! {
        _ = passing => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}
