//! The two files. A line is written whole before anybody goes on, and read back by the verdict: neither the producer nor
//! the receiver holds anything that the other could see.
//!
//! ```text
//! ok 17 2,3 <delivery of 2>,<delivery of 3>     answered with 2xx
//! refused 18 2 503                              answered with anything else, or never sent
//! unknown 19 2,3 <why>                          sent, and no answer says what became of it
//! ```
//! ```text
//! 17 2 <webhook-id> <attempt> <serial> <what it was answered: 200, 500, reset, hang> <ms> good
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What the producer knows of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Ok,
    Refused,
    Unknown,
}

/// One line of the producer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub fate: Fate,
    pub number: u64,
    /// The subscriptions that it was for.
    pub targets: Vec<i64>,
    /// `ok`: the delivery for each of them. Otherwise empty.
    pub deliveries: Vec<String>,
    /// `refused` and `unknown`: why, in one word.
    pub why: String,
}

/// One line of the receiver's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub number: u64,
    pub subscription: i64,
    pub webhook_id: String,
    pub attempt: u32,
    /// No other receipt has it; the answer's body names it.
    pub serial: u64,
    /// A status, `reset` or `hang`.
    pub answer: String,
    /// Since the receiver started.
    pub at_ms: u64,
    /// Whether both signatures were right.
    pub genuine: bool,
}

/// Appends lines to a file, one write each.
pub struct Notes {
    path: PathBuf,
    file: Mutex<File>,
}

impl Notes {
    pub fn at(path: &Path) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(path).expect("the ledger can be written");
        Self { path: path.to_owned(), file: Mutex::new(file) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn add(&self, line: &str) {
        let line = format!("{line}\n");
        self.file.lock().expect("unpoisoned").write_all(line.as_bytes()).expect("the ledger can be written");
    }
}

/// All that the producer has written down.
pub fn sent(path: &Path) -> Vec<Sent> {
    read(path, Sent::parse)
}

/// All that the receiver has written down.
pub fn receipts(path: &Path) -> Vec<Receipt> {
    read(path, Receipt::parse)
}

fn read<T>(path: &Path, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let line =
        |line: &str| parse(line).unwrap_or_else(|| panic!("{}: not a line of this ledger: {line}", path.display()));
    text.lines().map(line).collect()
}

impl Sent {
    pub fn line(&self) -> String {
        let (fate, rest) = match self.fate {
            Fate::Ok => ("ok", self.deliveries.join(",")),
            Fate::Refused => ("refused", self.why.clone()),
            Fate::Unknown => ("unknown", self.why.clone()),
        };
        let targets: Vec<_> = self.targets.iter().map(ToString::to_string).collect();
        format!("{fate} {} {} {rest}", self.number, targets.join(","))
    }

    pub fn parse(line: &str) -> Option<Self> {
        let [fate, number, targets, rest] = words(line)?;
        let fate = match fate {
            "ok" => Fate::Ok,
            "refused" => Fate::Refused,
            "unknown" => Fate::Unknown,
            _ => return None,
        };
        let targets = targets.split(',').map(|id| id.parse().ok()).collect::<Option<_>>()?;
        let is_ok = fate == Fate::Ok;
        let deliveries = if is_ok { rest.split(',').map(str::to_owned).collect() } else { Vec::new() };
        let why = if is_ok { String::new() } else { rest.to_owned() };
        Some(Self { fate, number: number.parse().ok()?, targets, deliveries, why })
    }
}

impl Receipt {
    pub fn line(&self) -> String {
        let Self { number, subscription, webhook_id, attempt, serial, answer, at_ms, genuine } = self;
        let genuine = if *genuine { "good" } else { "bad" };
        format!("{number} {subscription} {webhook_id} {attempt} {serial} {answer} {at_ms} {genuine}")
    }

    pub fn parse(line: &str) -> Option<Self> {
        let [number, subscription, webhook_id, attempt, serial, answer, at_ms, genuine] = words(line)?;
        Some(Self {
            number: number.parse().ok()?,
            subscription: subscription.parse().ok()?,
            webhook_id: webhook_id.to_owned(),
            attempt: attempt.parse().ok()?,
            serial: serial.parse().ok()?,
            answer: answer.to_owned(),
            at_ms: at_ms.parse().ok()?,
            genuine: genuine == "good",
        })
    }
}

fn words<const N: usize>(line: &str) -> Option<[&str; N]> {
    line.split(' ').collect::<Vec<_>>().try_into().ok()
}
