//! A request as a receiver takes it in: read from the wire, remembered, and checked at once against what is promised.

use bytes::Bytes;
use hookpost::delivery::invariants as promise;
use hookpost::delivery::{DeliveryId, OWN_EVENTS, Outcome, SubscriptionId};
use standardwebhooks::Webhook;
use tokio::io::{AsyncReadExt, DuplexStream};

use crate::history::{History, Offer, Seen, To};
use crate::sim::Sim;
use crate::store::faults::short;

#[derive(Clone, Debug)]
pub struct Request {
    pub id: DeliveryId,
    pub number: u32,
    pub timestamp: i64,
    pub signature: Option<String>,
    pub body: Bytes,
}

impl Request {
    pub fn name(&self) -> String {
        format!("{}#{}", short(self.id.0), self.number)
    }
}

/// The next request; `None` when the connection was closed before it was whole.
pub async fn read(stream: &mut DuplexStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some((request, end)) = parse(buffer) {
            buffer.drain(..end);
            return Some(request);
        }
        let read = stream.read_buf(buffer).await.ok()?;
        if read == 0 {
            return None;
        }
    }
}

/// A whole request, and where it ends.
fn parse(buffer: &[u8]) -> Option<(Request, usize)> {
    let head_end = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&buffer[..head_end]).expect("our own client sends text");
    let header = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let length: usize = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let body = buffer.get(head_end..head_end + length)?;
    let number = |name| header(name).and_then(|value| value.parse().ok());
    let request = Request {
        id: header("webhook-id").and_then(|id| id.parse().ok()).unwrap_or(DeliveryId::MIN),
        number: number("x-hookpost-attempt").unwrap_or(0),
        timestamp: number("webhook-timestamp").map(i64::from).unwrap_or_default(),
        signature: header("webhook-signature").map(str::to_owned),
        body: Bytes::copy_from_slice(body),
    };
    Some((request, head_end + length))
}

/// Remembers it, and holds it against the promises; its place among all, or `None` when one is broken.
pub fn take(sim: &Sim, of: SubscriptionId, request: &Request) -> Option<usize> {
    let life = sim.this_life();
    sim.say(format_args!("receiver {of}: sees {}", request.name()));
    let held = {
        let mut history = sim.history();
        let held = judge(&history, life, of, request);
        history.bodies.entry(request.id).or_insert_with(|| request.body.clone());
        let start = history.start_of(of);
        history.seen.push(Seen {
            life,
            start,
            at: sim.timestamp(),
            by: of,
            id: request.id,
            number: request.number,
            status: None,
            answered: false,
            open: true,
        });
        held.map(|()| history.seen.len() - 1)
    };
    if let Err(broken) = &held {
        sim.check(Err(broken.clone()));
    }
    held.ok()
}

fn judge(history: &History, life: usize, of: SubscriptionId, request: &Request) -> promise::Held {
    let name = request.name();
    let known = history.known.get(&of);
    let body = history.bodies.get(&request.id);
    promise::a_webhook_id_stands_for_one_body(&name, body.is_none_or(|body| *body == request.body))?;
    promise::nothing_is_delivered_that_was_not_offered(&name, of, is_offered(history, of, request))?;
    promise::what_was_refused_is_not_delivered(&name, is_refused(history, request))?;
    let Some(known) = known else { return Ok(()) };
    let signed = known.secrets.is_empty() || known.secrets.iter().any(|secret| verifies(secret, request));
    promise::every_request_is_signed(&name, signed)?;
    promise::attempts_stay_within_the_schedule(&name, request.number, known.waits)?;
    let start = history.start_of(of);
    let same =
        |seen: &&Seen| (seen.life, seen.start, seen.id, seen.number) == (life, start, request.id, request.number);
    let again = history.seen.iter().any(|seen| same(&seen));
    // One that outlived its retention is ended by the janitor, whether it is under way or not.
    let rows =
        history.logged.iter().filter(|row| !row.error_details.as_deref().is_some_and(|e| e.contains("retention")));
    let logged = rows.clone().any(|row| (row.delivery_id, row.attempt_number) == (request.id, request.number));
    promise::an_attempt_is_repeated_only_if_a_crash_cut_it(&name, request.number, !again && !logged)?;
    promise::what_has_ended_is_not_sent_again(
        &name,
        rows.clone().any(|row| row.delivery_id == request.id && row.outcome != Outcome::FailedAttempt),
    )?;
    let under_way = history.seen.iter().filter(|seen| seen.life == life && seen.by == of && seen.open);
    let ids: Vec<_> = under_way.map(|seen| seen.id).collect();
    promise::one_attempt_at_a_time(request.id, ids.contains(&request.id))?;
    promise::the_window_is_kept(of, ids.len() + 1, known.max_concurrency)
}

/// The number of the offer that a body is of.
fn offer_of(body: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(body).ok()?;
    text.strip_prefix("{\"offer\":")?.split([',', '}']).next()?.parse().ok()
}

/// That a body is of.
pub fn offer<'a>(history: &'a History, body: &[u8]) -> Option<&'a Offer> {
    offer_of(body).and_then(|nth| history.offers.get(nth))
}

fn is_offered(history: &History, to: SubscriptionId, request: &Request) -> bool {
    let Some(known) = history.known.get(&to) else { return false };
    let Some(offer) = offer(history, &request.body) else {
        // Of its own events Hookpost is the producer.
        let own = request.body.starts_with(b"{\"data\"") && request.body.windows(9).any(|nine| nine == b"hookpost.");
        return own && known.patterns.iter().any(|pattern| pattern.starts_with(OWN_EVENTS));
    };
    let wanted = offer.to == To::One(to) || (offer.to == To::WhoeverWants && wants(&known.patterns, offer.event_type));
    wanted && offer.body == request.body
}

/// For the few patterns that worlds use.
pub fn wants(patterns: &[&str], event_type: &str) -> bool {
    let matches = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(prefix) => event_type.starts_with(prefix),
        None => *pattern == event_type,
    };
    patterns.is_empty() || patterns.iter().any(matches)
}

fn is_refused(history: &History, request: &Request) -> bool {
    let answers = offer_of(&request.body).and_then(|nth| history.answers.get(&nth));
    answers.is_some_and(|answers| {
        answers.refused && !answers.perhaps && answers.under_way == 0 && answers.accepted.is_none()
    })
}

fn verifies(secret: &str, request: &Request) -> bool {
    let Some(signature) = &request.signature else { return false };
    let webhook = Webhook::from_bytes(secret.as_bytes().to_vec()).expect("any bytes are a secret");
    let id = request.id.to_string();
    webhook.sign(&id, request.timestamp, &request.body).is_ok_and(|ours| signature.split(' ').any(|one| one == ours))
}
