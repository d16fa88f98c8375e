//! Names that lead inside, told by name servers that turn on us. The name servers are real, over UDP; what is inside is a
//! canary at 127.0.0.2, on the port of a receiver at 127.0.0.1, the one address that may be a target.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::UdpSocket;

use super::canary::Canary;
use super::raw::Raw;
use crate::app::{App, Backend, Builder, on_both_stores};
use crate::receiver::Receiver;

on_both_stores!(
    a_name_that_resolves_to_a_private_address_is_refused_at_the_connect,
    a_mixed_answer_is_refused_whole_also_when_it_is_remembered,
    a_name_that_is_pointed_inside_after_its_first_delivery_is_refused,
    a_name_whose_first_lookup_fails_is_judged_by_its_second,
);

const ALLOWED: Ipv4Addr = Ipv4Addr::LOCALHOST;
const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Longer than any test.
const LONG_S: u32 = 3600;

/// What the name server says of every name.
#[derive(Clone, Debug)]
enum Says {
    Addresses(Vec<Ipv4Addr>, u32),
    ServerFailure,
}

struct NameServer {
    addr: SocketAddr,
    says: Arc<Mutex<Says>>,
    /// Questions for an IPv4 address.
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    async fn start(says: Says) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let addr = socket.local_addr().expect("an address");
        let server = Self { addr, says: Arc::new(Mutex::new(says)), asked: Arc::default() };
        let (says, asked) = (server.says.clone(), server.asked.clone());
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let says = says.lock().expect("unpoisoned").clone();
                let answer = answer(&question[..length], &says, &asked);
                let _ = socket.send_to(&answer, from).await;
            }
        });
        server
    }

    fn say(&self, says: Says) {
        *self.says.lock().expect("unpoisoned") = says;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// The question again, and the answers to it (RFC 1035, 4). Questions for other types than A are answered with nothing.
fn answer(question: &[u8], says: &Says, asked: &AtomicUsize) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).expect("a name's end");
    let end = 12 + name + 5;
    let for_ipv4 = question[12 + name + 1..][..2] == [0, 1];
    asked.fetch_add(usize::from(for_ipv4), Ordering::Relaxed);
    let (code, addresses, ttl) = match says {
        Says::Addresses(addresses, ttl) if for_ipv4 => (0, addresses.as_slice(), *ttl),
        Says::Addresses(..) => (0, &[][..], 0),
        Says::ServerFailure => (2, &[][..], 0),
    };
    let count = u8::try_from(addresses.len()).expect("few");
    let mut answer = [&question[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0], &question[12..end]].concat();
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// A service that asks this name server, and may send to one address of loopback alone.
async fn asking(backend: Backend, server: &NameServer) -> App {
    let addr = server.addr;
    let builder = Builder::new(backend).await.allow_targets(&["127.0.0.1/32"]).schedule("");
    builder.configure(|config| config.dns_servers = vec![addr]).start().await
}

/// One event, which ends so; its only attempt.
async fn attempt(app: &App, subscription: i64, state: &str) -> Value {
    let delivery = app.ingest(subscription, json!({})).await;
    app.status_when(&delivery, state).await["attempts"][0].clone()
}

/// The attempt was refused by the guard, and does not tell what the name resolves to.
#[track_caller]
fn assert_refused(tried: &Value) {
    let said = tried["error_details"].as_str().expect("a reason");
    assert!(said.starts_with("refused: the name hooks.example resolves to an address"), "{said}");
    assert!(!said.contains("127.0.0"), "{said}");
    assert_eq!(tried["http_status"], Value::Null);
}

async fn a_name_that_resolves_to_a_private_address_is_refused_at_the_connect(backend: Backend) {
    let server = NameServer::start(Says::Addresses(vec![INSIDE], 0)).await;
    let (app, canary) = (asking(backend, &server).await, Canary::at((INSIDE, 0).into()));
    let id = app.subscribe(&format!("http://hooks.example:{}/", canary.addr().port())).await;
    assert_refused(&attempt(&app, id, "failed").await);
    canary.assert_untouched();
}

async fn a_mixed_answer_is_refused_whole_also_when_it_is_remembered(backend: Backend) {
    let server = NameServer::start(Says::Addresses(vec![ALLOWED, INSIDE], LONG_S)).await;
    let (app, mut receiver) = (asking(backend, &server).await, Receiver::start([]).await);
    let canary = Canary::at((INSIDE, receiver.addr.port()).into());
    let id = app.subscribe(&format!("http://hooks.example:{}/", receiver.addr.port())).await;
    for _ in 0..2 {
        assert_refused(&attempt(&app, id, "failed").await);
        assert_eq!(server.asked(), 1, "the second attempt goes by what is remembered");
    }
    assert_eq!(receiver.unread().len(), 0, "nor is the good one of the two dialled");
    canary.assert_untouched();
}

async fn a_name_that_is_pointed_inside_after_its_first_delivery_is_refused(backend: Backend) {
    let server = NameServer::start(Says::Addresses(vec![ALLOWED], 0)).await;
    let app = asking(backend, &server).await;
    // It keeps the connection until it has answered twice.
    let answers = VecDeque::from(["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"; 2]);
    let mut receiver = Raw::answering(answers).await;
    let canary = Canary::at((INSIDE, receiver.addr.port()).into());
    let id = app.subscribe(&format!("http://hooks.example:{}/", receiver.addr.port())).await;
    attempt(&app, id, "delivered").await;
    server.say(Says::Addresses(vec![INSIDE], 0));
    // A connection that is open leads where it led: the address was judged when it was made.
    let asked = server.asked();
    attempt(&app, id, "delivered").await;
    assert_eq!(server.asked(), asked);
    receiver.closed().await;
    assert_refused(&attempt(&app, id, "failed").await);
    canary.assert_untouched();
}

async fn a_name_whose_first_lookup_fails_is_judged_by_its_second(backend: Backend) {
    let server = NameServer::start(Says::ServerFailure).await;
    let (app, canary) = (asking(backend, &server).await, Canary::at((INSIDE, 0).into()));
    let id = app.subscribe(&format!("http://hooks.example:{}/", canary.addr().port())).await;
    let tried = attempt(&app, id, "failed").await;
    let said = tried["error_details"].as_str().expect("a reason");
    assert!(said.starts_with("the host name hooks.example could not be resolved"), "{said}");
    server.say(Says::Addresses(vec![INSIDE], 0));
    assert_refused(&attempt(&app, id, "failed").await);
    canary.assert_untouched();
}
