//! What the two files and the attempt log say together. Pure: each way in which they can disagree has a name, and a
//! finding says which events show it.
//!
//! **The bound on duplicates.** A duplicate is a second receipt of the same attempt of the same delivery (its number is a
//! header). It comes about only when the process dies between the sending and the commit of the attempt's log row, and an
//! attempt holds one of its subscription's `max_concurrency` places until that commit. So each kill repeats at most
//! `max_concurrency` attempts of a subscription, and without a kill there is none. A death is told as the time from the
//! signal until all that the process had sent was read, so each duplicate lies around a death, and is charged to that of
//! the process that had sent the attempt before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::{self, Debug, Write};

use super::api::Logged;
use super::notes::{Fate, Receipt, Sent};

/// How the errors of attempts begin that no receiver can have seen (src/outbound/failure.rs).
const NOT_SENT: [&str; 3] = ["could not connect to ", "connection refused: ", "not sent, "];
/// How one ends for which there was no file descriptor.
const NO_DESCRIPTOR: &str = "(error 24)";
/// What an event may be refused with: the service says that it is busy, or is not there.
const REFUSALS: [&str; 4] = ["503", "429", "connect", "cut"];
/// Shown of each finding; the files have the rest.
const SHOWN: usize = 5;

/// What is compared.
#[derive(Clone, Debug, Default)]
pub struct Books {
    pub sent: Vec<Sent>,
    pub receipts: Vec<Receipt>,
    /// Of each subscription.
    pub logs: BTreeMap<i64, Vec<Logged>>,
    /// In their order.
    pub deaths: Vec<Death>,
    /// Attempts of a subscription that one kill may cause to be sent again.
    pub max_concurrency: usize,
    /// The way to the receiver was cut: what was sent and not answered may never have come.
    pub network_was_cut: bool,
}

/// A process that delivered was killed or lost the store for good, in the receiver's milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Death {
    pub from_ms: u64,
    /// When it was gone, and what it had sent was read.
    pub to_ms: u64,
}

/// An event as one subscription sees it.
pub type Owed = (u64, i64);

/// See the module's docs. All empty, and duplicates within the bound: everything is as it was promised.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub events: usize,
    pub accepted: usize,
    pub refused: usize,
    pub unknown: usize,
    pub receipts: usize,
    pub kills: usize,
    /// Second receipts of an attempt.
    pub duplicates: usize,
    /// How many there may be of one subscription for one kill.
    pub bound: usize,
    /// A number that the producer has not written down once, or twice.
    pub unaccounted: Vec<u64>,
    /// Refused with anything but a word of being busy or away.
    pub odd_refusals: Vec<(u64, String)>,
    /// Answered with 2xx, and never received with 2xx.
    pub lost: Vec<Owed>,
    /// Received, and refused, or sent to others, or never sent.
    pub phantoms: Vec<Owed>,
    /// Received with a signature that is not right.
    pub forged: Vec<Owed>,
    /// An event for several that only some of them received.
    pub torn: Vec<u64>,
    /// Received under two ids, or under another one than the producer was told.
    pub twins: Vec<Owed>,
    /// An attempt that was sent again although no process had died meanwhile.
    pub repeated: Vec<(String, u32)>,
    /// Most duplicates of one subscription that one kill is charged with.
    pub most: usize,
    /// Kills, subscriptions, and their duplicates where these are more than their bound.
    pub over_bound: Vec<(Death, i64, usize)>,
    /// Deliveries whose log is not 1, 2, 3, …, each once, and a success at the end.
    pub broken_logs: Vec<(String, Vec<u32>)>,
    /// Received, and not in the log.
    pub unlogged: Vec<(String, u32)>,
    /// In the log with an answer that no receipt has, or without one and without a receipt, although it was sent.
    pub invented: Vec<(String, u32)>,
}

impl Books {
    pub fn judge(&self) -> Verdict {
        let received = self.received();
        let charged = self.charged();
        let count = |fate| self.sent.iter().filter(|sent| sent.fate == fate).count();
        Verdict {
            events: self.sent.len(),
            accepted: count(Fate::Ok),
            refused: count(Fate::Refused),
            unknown: count(Fate::Unknown),
            receipts: self.receipts.len(),
            kills: self.deaths.len(),
            duplicates: self.attempts().values().map(|receipts| receipts.len() - 1).sum(),
            most: charged.values().copied().max().unwrap_or_default(),
            bound: self.max_concurrency,
            unaccounted: self.unaccounted(),
            odd_refusals: self.odd_refusals(),
            lost: self.lost(),
            phantoms: self.phantoms(&received),
            forged: self.receipts.iter().filter(|receipt| !receipt.genuine).map(Receipt::owed).collect(),
            torn: self.torn(&received),
            twins: self.twins(&received),
            repeated: self.repeated(),
            over_bound: self.over_bound(charged),
            broken_logs: self.broken_logs(&received),
            unlogged: self.unlogged(),
            invented: self.invented(),
        }
    }

    /// The ids under which each was received.
    fn received(&self) -> BTreeMap<Owed, BTreeSet<&str>> {
        let mut received: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for receipt in &self.receipts {
            received.entry(receipt.owed()).or_default().insert(receipt.webhook_id.as_str());
        }
        received
    }

    fn unaccounted(&self) -> Vec<u64> {
        let mut lines: BTreeMap<u64, usize> = BTreeMap::new();
        for sent in &self.sent {
            *lines.entry(sent.number).or_default() += 1;
        }
        let last = lines.last_key_value().map_or(0, |(last, _)| *last);
        (1..=last).filter(|number| lines.get(number) != Some(&1)).collect()
    }

    fn odd_refusals(&self) -> Vec<(u64, String)> {
        let refused = self.sent.iter().filter(|sent| sent.fate == Fate::Refused);
        let odd = refused.filter(|sent| !REFUSALS.contains(&sent.why.as_str()));
        odd.map(|sent| (sent.number, sent.why.clone())).collect()
    }

    /// Whether or not the process that received the answer lived to log it.
    fn lost(&self) -> Vec<Owed> {
        let taken: HashSet<_> =
            self.receipts.iter().filter(|receipt| receipt.is_success()).map(Receipt::owed).collect();
        self.sent
            .iter()
            .filter(|sent| sent.fate == Fate::Ok)
            .flat_map(Sent::owed)
            .filter(|owed| !taken.contains(owed))
            .collect()
    }

    fn phantoms(&self, received: &BTreeMap<Owed, BTreeSet<&str>>) -> Vec<Owed> {
        let may: HashSet<_> = self.sent.iter().filter(|sent| sent.fate != Fate::Refused).flat_map(Sent::owed).collect();
        received.keys().filter(|owed| !may.contains(owed)).copied().collect()
    }

    /// What was answered with 2xx and is missing is lost; this is for what nobody knows of.
    fn torn(&self, received: &BTreeMap<Owed, BTreeSet<&str>>) -> Vec<u64> {
        let unknown = self.sent.iter().filter(|sent| sent.fate == Fate::Unknown);
        let is_torn = |sent: &&Sent| {
            let came = sent.owed().filter(|owed| received.contains_key(owed)).count();
            came != 0 && came != sent.targets.len()
        };
        unknown.filter(is_torn).map(|sent| sent.number).collect()
    }

    fn twins(&self, received: &BTreeMap<Owed, BTreeSet<&str>>) -> Vec<Owed> {
        let told = self.sent.iter().flat_map(|sent| sent.owed().zip(&sent.deliveries));
        // Those of an event for all are listed by id, not by subscription: which one is whose is not said.
        let mut promised: HashMap<u64, HashSet<&str>> = HashMap::new();
        for ((number, _), delivery) in told {
            promised.entry(number).or_default().insert(delivery);
        }
        let is_twin = |owed: &Owed, ids: &BTreeSet<&str>| {
            let other = promised.get(&owed.0).is_some_and(|promised| ids.iter().any(|id| !promised.contains(id)));
            ids.len() > 1 || other
        };
        received.iter().filter(|(owed, ids)| is_twin(owed, ids)).map(|(owed, _)| *owed).collect()
    }

    /// The receipts of each attempt, by time.
    fn attempts(&self) -> BTreeMap<(i64, &str, u32), Vec<&Receipt>> {
        let mut attempts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for receipt in &self.receipts {
            let attempt = (receipt.subscription, receipt.webhook_id.as_str(), receipt.attempt);
            attempts.entry(attempt).or_default().push(receipt);
        }
        attempts.values_mut().for_each(|receipts| receipts.sort_by_key(|receipt| receipt.at_ms));
        attempts
    }

    /// The death of the process that sent the first: the first one that lies between the two, or around one of them.
    fn death_between(&self, first: &Receipt, second: &Receipt) -> Option<Death> {
        let lies = |death: &&Death| death.from_ms <= second.at_ms && first.at_ms <= death.to_ms;
        self.deaths.iter().filter(lies).min().copied()
    }

    fn repeated(&self) -> Vec<(String, u32)> {
        let needless =
            |receipts: &[&Receipt]| receipts.windows(2).any(|pair| self.death_between(pair[0], pair[1]).is_none());
        let attempts = self.attempts().into_iter().filter(|(_, receipts)| needless(receipts));
        attempts.map(|((_, id, attempt), _)| (id.to_owned(), attempt)).collect()
    }

    /// The duplicates of each subscription by the death that they are charged to.
    fn charged(&self) -> BTreeMap<(Death, i64), usize> {
        let mut charged = BTreeMap::new();
        for ((subscription, ..), receipts) in self.attempts() {
            for death in receipts.windows(2).filter_map(|pair| self.death_between(pair[0], pair[1])) {
                *charged.entry((death, subscription)).or_default() += 1;
            }
        }
        charged
    }

    fn over_bound(&self, charged: BTreeMap<(Death, i64), usize>) -> Vec<(Death, i64, usize)> {
        let over = charged.into_iter().filter(|(_, duplicates)| *duplicates > self.max_concurrency);
        over.map(|((death, subscription), duplicates)| (death, subscription, duplicates)).collect()
    }

    fn broken_logs(&self, received: &BTreeMap<Owed, BTreeSet<&str>>) -> Vec<(String, Vec<u32>)> {
        let mut logs: BTreeMap<&str, Vec<(u32, bool)>> = BTreeMap::new();
        for row in self.logs.values().flatten() {
            logs.entry(&row.delivery_id).or_default().push((row.attempt, row.outcome == "Success"));
        }
        let ids: BTreeSet<&str> = received.values().flatten().copied().collect();
        let is_whole = |rows: &[(u32, bool)]| {
            let last = rows.len() as u32;
            rows.iter().zip(1..).all(|((attempt, success), n)| *attempt == n && *success == (n == last))
        };
        let mut broken = Vec::new();
        for id in ids {
            let mut rows = logs.get(id).cloned().unwrap_or_default();
            rows.sort_unstable();
            if rows.is_empty() || !is_whole(&rows) {
                broken.push((id.to_owned(), rows.into_iter().map(|(attempt, _)| attempt).collect()));
            }
        }
        broken
    }

    fn unlogged(&self) -> Vec<(String, u32)> {
        let logged: HashSet<_> =
            self.logs.values().flatten().map(|row| (row.delivery_id.as_str(), row.attempt)).collect();
        let received: BTreeSet<_> =
            self.receipts.iter().map(|receipt| (receipt.webhook_id.as_str(), receipt.attempt)).collect();
        let missing = received.into_iter().filter(|attempt| !logged.contains(attempt));
        missing.map(|(id, attempt)| (id.to_owned(), attempt)).collect()
    }

    /// The body of each answer named its receipt, so a row with an answer is the log of one receipt and no other. The
    /// receiver never goes away, so an attempt without an answer has come, too, unless its error says that it was not sent.
    fn invented(&self) -> Vec<(String, u32)> {
        let receipts: HashMap<_, _> = self.receipts.iter().map(|receipt| (receipt.serial, receipt)).collect();
        let came: HashSet<_> =
            self.receipts.iter().map(|receipt| (receipt.webhook_id.as_str(), receipt.attempt)).collect();
        let mut seen = HashSet::new();
        let mut is_invented = |row: &Logged| {
            let (Some(status), Some(serial)) = (row.status, row.serial) else {
                return row.status.is_some()
                    || row.was_sent()
                        && !self.network_was_cut
                        && !came.contains(&(row.delivery_id.as_str(), row.attempt));
            };
            let of_it = |receipt: &&&Receipt| {
                receipt.webhook_id == row.delivery_id
                    && receipt.attempt == row.attempt
                    && receipt.status() == Some(status)
            };
            receipts.get(&serial).filter(of_it).is_none() || !seen.insert(serial)
        };
        let rows = self.logs.values().flatten().filter(|row| is_invented(row));
        rows.map(|row| (row.delivery_id.clone(), row.attempt)).collect()
    }
}

impl Verdict {
    /// What is wrong, by name, with the first few examples of each.
    pub fn findings(&self) -> BTreeMap<&'static str, String> {
        fn shown<T: Debug>(all: &[T]) -> String {
            let more = if all.len() > SHOWN { ", …" } else { "" };
            let first: Vec<_> = all.iter().take(SHOWN).map(|one| format!("{one:?}")).collect();
            format!("{}: {}{more}", all.len(), first.join(", "))
        }
        let all = [
            ("unaccounted", self.unaccounted.len(), shown(&self.unaccounted)),
            ("odd_refusals", self.odd_refusals.len(), shown(&self.odd_refusals)),
            ("lost", self.lost.len(), shown(&self.lost)),
            ("phantoms", self.phantoms.len(), shown(&self.phantoms)),
            ("forged", self.forged.len(), shown(&self.forged)),
            ("torn", self.torn.len(), shown(&self.torn)),
            ("twins", self.twins.len(), shown(&self.twins)),
            ("repeated", self.repeated.len(), shown(&self.repeated)),
            ("over_bound", self.over_bound.len(), shown(&self.over_bound)),
            ("broken_logs", self.broken_logs.len(), shown(&self.broken_logs)),
            ("unlogged", self.unlogged.len(), shown(&self.unlogged)),
            ("invented", self.invented.len(), shown(&self.invented)),
        ];
        all.into_iter().filter(|(_, count, _)| *count > 0).map(|(name, _, text)| (name, text)).collect()
    }

    /// Whether more time may still put it right.
    pub fn is_open(&self) -> bool {
        ["lost", "torn", "broken_logs", "unlogged"].iter().any(|name| self.findings().contains_key(name))
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        let findings = self.findings();
        assert!(findings.is_empty(), "{self}\n{findings:#?}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, accepted, refused, unknown, receipts, kills, duplicates, most, bound, .. } = self;
        write!(f, "{events} events: {accepted} accepted, {refused} refused, {unknown} unknown; {receipts} receipts; ")?;
        write!(f, "{kills} kills, {duplicates} duplicates, at most {most} of {bound} a kill and subscription; ")?;
        write!(f, "lost {}", self.lost.len())?;
        let mut findings = String::new();
        for (name, text) in self.findings() {
            write!(findings, "; {name} {text}")?;
        }
        f.write_str(&findings)
    }
}

impl Sent {
    /// What each of its subscriptions is owed if it was taken.
    pub fn owed(&self) -> impl Iterator<Item = Owed> {
        self.targets.iter().map(|target| (self.number, *target))
    }
}

impl Logged {
    /// Whether a receiver that is there must have seen it.
    fn was_sent(&self) -> bool {
        !NOT_SENT.iter().any(|how| self.error.starts_with(how)) && !self.error.ends_with(NO_DESCRIPTOR)
    }
}

impl Receipt {
    pub fn owed(&self) -> Owed {
        (self.number, self.subscription)
    }

    /// What it was answered with, if it was; a slow answer is a good one.
    pub fn status(&self) -> Option<u16> {
        if self.answer == "slow" { Some(200) } else { self.answer.parse().ok() }
    }

    pub fn is_success(&self) -> bool {
        self.status() == Some(200)
    }
}
