//! The network of a simulation: pipes in memory to receivers that misbehave, and that remember every request.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use hookpost::delivery::SubscriptionId;
use hookpost::outbound::Dial;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::receipt::{self, Request};
use crate::sim::{Sabotage, Sim};

/// What is on the way in one direction of a connection.
const PIPE_BYTES: usize = 64 * 1024;
/// Longest wait of a connection, for the checks of the rate. Below it requests arrive when they are sent.
pub const MAX_CONNECT: Duration = Duration::from_millis(100);

pub struct Network(pub Arc<Sim>);

/// Where a subscription's receiver is.
pub fn address_of(id: SubscriptionId) -> String {
    format!("http://10.0.0.{}/hook", id.0)
}

fn receiver_at(address: SocketAddr) -> SubscriptionId {
    match address.ip() {
        IpAddr::V4(address) => SubscriptionId(address.octets()[3].into()),
        IpAddr::V6(_) => SubscriptionId(0),
    }
}

#[async_trait]
impl Dial for Network {
    async fn dial(&self, to: SocketAddr) -> io::Result<DuplexStream> {
        let sim = &self.0;
        if sim.faulty() {
            match sim.chance.below(100) {
                0..2 if sim.profile.receivers_fail_percent > 0 => std::future::pending().await,
                2..8 if sim.profile.receivers_fail_percent > 0 => return Err(io::ErrorKind::ConnectionRefused.into()),
                _ => sim.pass(sim.chance.skewed_ms(u64::try_from(MAX_CONNECT.as_millis()).unwrap_or(1))).await,
            }
        }
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        tokio::spawn(serve(sim.clone(), receiver_at(to), theirs));
        Ok(ours)
    }
}

/// What a receiver does with a request.
#[derive(Clone, Copy, Debug)]
enum Act {
    Answer(u16),
    /// With a `Retry-After` of so many seconds.
    Later(u16, u64),
    /// The head of an answer, and less of its body than it says.
    Half(u16),
    Hang,
    Reset,
    NotHttp,
}

fn draw(sim: &Sim) -> Act {
    let chance = &sim.chance;
    if !sim.faulty() || !chance.percent(sim.profile.receivers_fail_percent) {
        return Act::Answer(*chance.pick(&[200, 200, 202, 204]));
    }
    match chance.below(100) {
        0..35 => Act::Answer(*chance.pick(&[500, 503, 404, 301])),
        35..50 => Act::Later(*chance.pick(&[429, 503]), chance.between(0, 12)),
        50..60 => Act::Half(*chance.pick(&[200, 500])),
        60..75 => Act::Hang,
        75..92 => Act::Reset,
        92..98 => Act::NotHttp,
        _ => Act::Answer(410),
    }
}

/// A keep-alive connection of a receiver.
async fn serve(sim: Arc<Sim>, of: SubscriptionId, mut stream: DuplexStream) {
    let mut buffer = Vec::new();
    while let Some(request) = receipt::read(&mut stream, &mut buffer).await {
        let mut request = request;
        if sim.sabotage == Some(Sabotage::ChangeBodies) && sim.chance.percent(10) {
            request.body = request.body.slice(..request.body.len() - 1);
        }
        let Some(nth) = receipt::take(&sim, of, &request) else { return };
        let act = draw(&sim);
        sim.crash_point("after a receiver saw a request").await;
        let goes_on = perform(&sim, &mut stream, nth, act, &request).await;
        sim.history().seen[nth].open = false;
        if !goes_on || (sim.faulty() && sim.chance.percent(10)) {
            return;
        }
    }
}

/// Does it; whether the connection can be used again.
async fn perform(sim: &Arc<Sim>, stream: &mut DuplexStream, nth: usize, act: Act, request: &Request) -> bool {
    let slow = sim.faulty() && sim.chance.percent(5);
    let latency = if slow { sim.chance.ms(500, 4000) } else { sim.chance.skewed_ms(100) };
    if !waited(sim, stream, latency).await {
        sim.say(format_args!("receiver {}: {} was given up", sim.history().seen[nth].by, request.name()));
        return false;
    }
    let (status, text) = match act {
        Act::Answer(204) => (Some(204), "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        Act::Answer(status) => (Some(status), format!("HTTP/1.1 {status} It\r\ncontent-length: 2\r\n\r\nok")),
        Act::Later(status, s) => {
            (Some(status), format!("HTTP/1.1 {status} It\r\nretry-after: {s}\r\ncontent-length: 0\r\n\r\n"))
        }
        Act::Half(status) => (Some(status), format!("HTTP/1.1 {status} It\r\ncontent-length: 200\r\n\r\nbeg")),
        Act::NotHttp => (None, "what is that?\r\n\r\n".to_owned()),
        Act::Reset => return false,
        Act::Hang => {
            waited(sim, stream, Duration::from_secs(3600)).await;
            return false;
        }
    };
    let whole = matches!(act, Act::Answer(_) | Act::Later(..));
    sim.history().seen[nth].status = status;
    let written = stream.write_all(text.as_bytes()).await.is_ok();
    sim.history().seen[nth].answered = whole && written;
    sim.say(format_args!("receiver {}: {} gets {act:?}", sim.history().seen[nth].by, request.name()));
    if sim.sabotage == Some(Sabotage::Phantom) && sim.chance.percent(5) {
        let unasked =
            Request { id: hookpost::delivery::DeliveryId::MIN, body: "never offered".into(), ..request.clone() };
        receipt::take(sim, sim.history_of(nth), &unasked);
    }
    if sim.sabotage == Some(Sabotage::Duplicate) && sim.chance.percent(5) {
        receipt::take(sim, sim.history_of(nth), request);
    }
    sim.crash_point("after a receiver answered").await;
    whole && written
}

/// Lets time pass; `false` when the other side has closed the connection meanwhile.
async fn waited(sim: &Sim, stream: &mut DuplexStream, time: Duration) -> bool {
    let mut nothing = [0];
    tokio::select! {
        biased;
        _ = stream.read(&mut nothing) => false,
        () = sim.pass(time) => true,
    }
}

impl Sim {
    fn history_of(&self, nth: usize) -> SubscriptionId {
        self.history().seen[nth].by
    }

    pub fn this_life(&self) -> usize {
        self.life.load(Ordering::Relaxed)
    }
}
