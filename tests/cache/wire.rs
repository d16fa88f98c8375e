//! The wire between a cache and a Redis, to be cut without either end noticing.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on. A cut one stays open and carries nothing; the next one works.
pub struct Wire {
    port: u16,
    cuts: watch::Sender<()>,
}

impl Wire {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let wire = Self { port: listener.local_addr().unwrap().port(), cuts: watch::Sender::new(()) };
        let cuts = wire.cuts.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(carry(near, far, cuts.subscribe()));
            }
        });
        wire
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Every connection that there is now.
    pub fn cut(&self) {
        self.cuts.send_replace(());
    }
}

async fn carry(mut near: TcpStream, mut far: TcpStream, mut cut: watch::Receiver<()>) {
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => return,
        _ = cut.changed() => {}
    }
    // Neither end is dropped: nobody hears of it.
    std::future::pending::<()>().await;
}
