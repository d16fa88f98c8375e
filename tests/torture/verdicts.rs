//! Each finding of the verdict is found in books made by hand, and none in books that are right.

use std::collections::BTreeMap;

use crate::ledger::api::Logged;
use crate::ledger::notes::{Fate, Receipt, Sent};
use crate::ledger::verdict::{Books, Death};

const LATE_MS: u64 = 60_000;

fn sent(line: &str) -> Sent {
    let sent = Sent::parse(line).expect("a line of the producer's");
    assert_eq!(sent.line(), line);
    sent
}

fn receipt(line: &str) -> Receipt {
    let receipt = Receipt::parse(line).expect("a line of the receiver's");
    assert_eq!(receipt.line(), line);
    receipt
}

fn logged(delivery: &str, attempt: u32, status: Option<u16>, serial: Option<u64>) -> Logged {
    let outcome = if status == Some(200) { "Success" } else { "Failed Attempt" };
    let error = if status.is_none() { "timed out after 1000 ms before an answer came" } else { "" }.to_owned();
    Logged { delivery_id: delivery.to_owned(), attempt, outcome: outcome.to_owned(), status, error, serial }
}

/// One event for subscription 1, which failed once and was then received; one for both, whose first attempt hung at 2; one
/// refused and one that nobody knows of.
fn right() -> Books {
    let lines = ["ok 1 1 a", "ok 2 1,2 b,c", "refused 3 1 503", "unknown 4 1,2 broken"];
    let came = [
        "1 1 a 1 11 500 100 good",
        "1 1 a 2 12 200 300 good",
        "2 1 b 1 13 200 310 good",
        "2 2 c 1 14 hang 320 good",
        "2 2 c 2 15 slow 330 good",
    ];
    let logs = [
        (
            1,
            vec![
                logged("a", 1, Some(500), Some(11)),
                logged("a", 2, Some(200), Some(12)),
                logged("b", 1, Some(200), Some(13)),
            ],
        ),
        (2, vec![logged("c", 1, None, None), logged("c", 2, Some(200), Some(15))]),
    ];
    Books {
        sent: lines.map(sent).to_vec(),
        receipts: came.map(receipt).to_vec(),
        logs: BTreeMap::from(logs),
        deaths: Vec::new(),
        max_concurrency: 1,
        network_was_cut: false,
    }
}

/// The names of what is found when the right books are changed like this.
fn found(change: impl FnOnce(&mut Books)) -> Vec<&'static str> {
    let mut books = right();
    change(&mut books);
    books.judge().findings().into_keys().collect()
}

#[test]
fn books_that_are_right_show_nothing() {
    let verdict = right().judge();
    verdict.assert_clean();
    assert!(!verdict.is_open());
    assert_eq!((verdict.accepted, verdict.refused, verdict.unknown, verdict.receipts), (2, 1, 1, 5));
}

#[test]
fn an_accepted_event_that_never_came_is_lost() {
    assert_eq!(found(|books| books.sent.push(sent("ok 5 2 d"))), ["lost"]);
}

#[test]
fn an_accepted_event_that_was_only_ever_refused_by_the_receiver_is_lost() {
    let names = found(|books| {
        books.sent.push(sent("ok 5 1 d"));
        books.receipts.push(receipt("5 1 d 1 16 500 400 good"));
        books.logs.get_mut(&1).unwrap().push(logged("d", 1, Some(500), Some(16)));
    });
    assert_eq!(names, ["broken_logs", "lost"]);
}

#[test]
fn what_was_refused_or_never_sent_or_sent_to_others_is_a_phantom() {
    for came in ["3 1 d 1 16 200 400 good", "9 1 d 1 16 200 400 good", "1 2 d 1 16 200 400 good"] {
        let names = found(|books| {
            books.receipts.push(receipt(came));
            books.logs.get_mut(&1).unwrap().push(logged("d", 1, Some(200), Some(16)));
        });
        assert!(names.contains(&"phantoms"), "{came}: {names:?}");
    }
}

#[test]
fn a_signature_that_is_not_right_is_forged() {
    assert_eq!(found(|books| books.receipts[0].genuine = false), ["forged"]);
}

#[test]
fn a_number_that_was_written_down_twice_or_never_is_unaccounted() {
    assert_eq!(found(|books| books.sent.push(sent("refused 3 1 503"))), ["unaccounted"]);
    assert_eq!(found(|books| books.sent.push(sent("refused 6 1 503"))), ["unaccounted"]);
}

#[test]
fn an_unknown_event_may_come_to_all_and_not_to_some() {
    let come = |books: &mut Books, to: &[i64]| {
        for (subscription, serial) in to.iter().zip(16..) {
            let id = format!("d{subscription}");
            books.receipts.push(receipt(&format!("4 {subscription} {id} 1 {serial} 200 400 good")));
            books.logs.get_mut(subscription).unwrap().push(logged(&id, 1, Some(200), Some(serial)));
        }
    };
    assert_eq!(found(|books| come(books, &[1, 2])), [""; 0]);
    assert_eq!(found(|books| come(books, &[2])), ["torn"]);
}

#[test]
fn one_event_under_two_ids_or_an_id_that_was_not_promised_is_a_twin() {
    let second = |books: &mut Books| {
        books.receipts.push(receipt("1 1 d 1 16 200 400 good"));
        books.logs.get_mut(&1).unwrap().push(logged("d", 1, Some(200), Some(16)));
    };
    assert_eq!(found(second), ["twins"]);
    assert_eq!(found(|books| books.sent[0].deliveries = vec!["z".to_owned()]), ["twins"]);
}

#[test]
fn an_attempt_that_was_sent_again_needs_a_death_between() {
    let again = |books: &mut Books| books.receipts.push(receipt("2 1 b 1 16 200 60000 good"));
    assert_eq!(found(again), ["repeated"]);
    let died = |from_ms: u64, to_ms: u64| {
        found(|books| {
            again(books);
            books.deaths.push(Death { from_ms, to_ms });
        })
    };
    assert_eq!(died(400, 500), [""; 0]);
    assert_eq!(died(300, 310), [""; 0], "the first receipt was read while it died");
    assert_eq!(died(300, 309), ["repeated"], "it was dead before the first");
    assert_eq!(died(LATE_MS + 1, LATE_MS + 2), ["repeated"], "it died after the second");
}

#[test]
fn each_death_allows_a_window_of_duplicates_and_no_more() {
    let twice = |books: &mut Books| {
        books.receipts.push(receipt("2 1 b 1 16 200 60000 good"));
        books.receipts.push(receipt("1 1 a 2 17 200 60000 good"));
    };
    let one = Death { from_ms: 400, to_ms: 500 };
    let another = Death { from_ms: 600, to_ms: 700 };
    for deaths in [vec![one], vec![one, another]] {
        let names = found(|books| {
            books.deaths = deaths;
            twice(books);
        });
        assert_eq!(names, ["over_bound"], "what one causes is not excused by another");
    }
    let mut books = right();
    books.deaths = vec![one, another];
    books.receipts.push(receipt("2 1 b 1 16 200 550 good"));
    books.receipts.push(receipt("2 1 b 1 17 200 60000 good"));
    let verdict = books.judge();
    assert_eq!((verdict.duplicates, verdict.most), (2, 1), "each is charged to its own");
}

#[test]
fn a_log_that_skips_repeats_or_does_not_end_well_is_broken() {
    assert_eq!(found(|books| books.logs.get_mut(&1).unwrap()[0].attempt = 3), ["broken_logs", "invented", "unlogged"]);
    let twice = |books: &mut Books| books.logs.get_mut(&2).unwrap().push(logged("c", 1, None, None));
    assert_eq!(found(twice), ["broken_logs"]);
    let open = |books: &mut Books| books.logs.get_mut(&2).unwrap()[1].outcome = "Failed Attempt".to_owned();
    assert_eq!(found(open), ["broken_logs"]);
}

#[test]
fn a_receipt_that_is_not_in_the_log_is_unlogged() {
    assert_eq!(found(|books| books.logs.get_mut(&1).unwrap().truncate(2)), ["broken_logs", "unlogged"]);
}

#[test]
fn a_logged_answer_that_the_receiver_did_not_give_is_invented() {
    assert_eq!(found(|books| books.logs.get_mut(&1).unwrap()[0].status = Some(502)), ["invented"]);
    assert_eq!(found(|books| books.logs.get_mut(&1).unwrap()[0].serial = Some(99)), ["invented"]);
    assert_eq!(found(|books| books.logs.get_mut(&1).unwrap()[2].serial = Some(12)), ["invented"]);
    assert_eq!(found(|books| books.logs.get_mut(&2).unwrap()[0].status = Some(200)), ["invented"]);
}

#[test]
fn a_logged_attempt_without_an_answer_needs_a_receipt_unless_it_was_not_sent() {
    let with_error = |error: &str| {
        found(|books| {
            books.receipts.retain(|receipt| receipt.serial != 14);
            books.logs.get_mut(&2).unwrap()[0].error = error.to_owned();
        })
    };
    assert_eq!(with_error("timed out after 1000 ms before an answer came"), ["invented"]);
    assert_eq!(with_error(""), ["invented"]);
    assert_eq!(
        found(|books| {
            books.network_was_cut = true;
            books.receipts.retain(|receipt| ![13, 14].contains(&receipt.serial));
        }),
        ["invented", "lost"],
        "into a network that was cut it may have gone; what was answered has come"
    );
    for error in [
        "could not connect to 127.0.0.1:1 within 1000 ms",
        "connection refused: nothing listens at 127.0.0.1:1",
        "not sent, because it could not be signed: no master key",
    ] {
        assert_eq!(with_error(error), [""; 0], "{error}");
    }
}

#[test]
fn a_refusal_says_busy_or_away_or_is_odd() {
    let refused = |why: &str| found(|books| books.sent.push(sent(&format!("refused 5 1 {why}"))));
    for why in ["503", "429", "connect", "cut"] {
        assert_eq!(refused(why), [""; 0], "{why}");
    }
    for why in ["500", "404", "400"] {
        assert_eq!(refused(why), ["odd_refusals"], "{why}");
    }
}

#[test]
fn what_time_may_put_right_is_told_from_what_it_may_not() {
    let open = |change: &dyn Fn(&mut Books)| {
        let mut books = right();
        change(&mut books);
        books.judge().is_open()
    };
    assert!(open(&|books| books.sent.push(sent("ok 5 2 d"))));
    assert!(open(&|books| books.logs.get_mut(&1).unwrap().truncate(2)));
    assert!(!open(&|books| books.receipts[0].genuine = false));
    assert!(!open(&|books| books.sent.push(Sent { fate: Fate::Refused, number: 5, ..books.sent[0].clone() })));
}
