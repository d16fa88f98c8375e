//! The simulation can fail: each promise that is broken on purpose is missed by name.

use crate::sim::Sabotage;
use crate::world;

/// Worlds in which it is looked for: not every one gives the saboteur a chance.
const SEEDS: u64 = 40;

/// Which promises are missed in the first worlds that miss one.
fn assert_missed(sabotage: Sabotage, expected: &[&str]) {
    let missed: Vec<_> =
        (1..=SEEDS).filter_map(|seed| world::run(seed, Some(sabotage), false).broken).take(3).collect();
    assert!(!missed.is_empty(), "{sabotage:?} is not noticed in {SEEDS} worlds");
    for broken in missed {
        assert!(expected.contains(&broken.invariant), "{sabotage:?} is noticed as {broken:?}");
    }
}

#[test]
fn a_store_that_forgets_what_it_has_committed_is_noticed() {
    assert_missed(Sabotage::ForgetDeliveries, &["nothing_accepted_is_lost", "everything_settles"]);
}

#[test]
fn a_recovery_that_finds_nothing_is_noticed() {
    assert_missed(Sabotage::ForgetRecovery, &["everything_settles", "a_lane_keeps_its_order"]);
}

#[test]
fn a_store_that_forgets_log_rows_is_noticed() {
    let expected = ["what_the_receiver_saw_is_logged", "an_attempt_is_repeated_only_if_a_crash_cut_it"];
    assert_missed(
        Sabotage::ForgetLogs,
        &[&expected[..], &["a_crash_cuts_no_more_than_the_window", "everything_settles"]].concat(),
    );
}

#[test]
fn a_store_that_forgets_retries_is_noticed() {
    assert_missed(Sabotage::ForgetRetries, &["nothing_accepted_is_lost", "a_lane_keeps_its_order"]);
}

#[test]
fn a_watermark_that_passes_what_is_untried_is_noticed() {
    assert_missed(Sabotage::JumpWatermark, &["everything_settles", "a_lane_keeps_its_order"]);
}

#[test]
fn a_request_that_nobody_asked_for_is_noticed() {
    assert_missed(Sabotage::Phantom, &["nothing_is_delivered_that_was_not_offered"]);
}

#[test]
fn an_attempt_that_is_made_twice_is_noticed() {
    assert_missed(Sabotage::Duplicate, &["an_attempt_is_repeated_only_if_a_crash_cut_it"]);
}

#[test]
fn a_row_of_an_answer_that_nobody_gave_is_noticed() {
    assert_missed(Sabotage::InventStatus, &["the_log_says_what_the_receiver_saw"]);
}

#[test]
fn a_request_whose_body_has_changed_on_its_way_is_noticed() {
    let expected = ["nothing_is_delivered_that_was_not_offered", "a_webhook_id_stands_for_one_body"];
    assert_missed(Sabotage::ChangeBodies, &expected);
}
