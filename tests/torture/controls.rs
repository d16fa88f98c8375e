//! Negative controls: each scenario once more, against a program that breaks its promise on purpose. Each must fail, and by
//! name, or the scenario proves nothing.

use std::process::Command;

use crate::crashes::crash_loop;
use crate::owners::two_owners;
use crate::settings::{self, SHORT};
use crate::stage::{Backend, Stage};

/// Rounds until a broken promise must have shown. A kill hits the instant between an answer and its commit by luck.
const ROUNDS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledging_before_the_commit_loses_events_in_the_crash_loop() {
    assert!(loses("ack-before-commit", Backend::Postgres).await, "the crash loop would not notice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skipping_the_recovery_loses_events_in_the_crash_loop() {
    assert!(loses("skip-recovery", Backend::Sqlite).await, "the crash loop would not notice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ignoring_the_fence_lets_a_stale_owner_acknowledge_and_live() {
    let stage = Stage::broken(Backend::Postgres, settings::seed(0), "ignore-fencing").await;
    let story = two_owners(stage).await;
    println!("ignore-fencing: {} stale acks; {}", story.stale_acks, story.verdict);
    assert!(story.stale_acks > 0 && story.exit.is_none(), "the scenario would not notice: {:#?}", story.log);
}

async fn loses(control: &str, backend: Backend) -> bool {
    for round in 0..ROUNDS {
        let mut stage = Stage::broken(backend, settings::seed(round), control).await;
        let verdict = crash_loop(&mut stage, SHORT).await;
        println!("{control}, round {round}: {verdict}");
        if verdict.findings().contains_key("lost") {
            return true;
        }
    }
    false
}

#[test]
fn the_program_that_ships_breaks_nothing_and_the_broken_one_says_so() {
    let version = |binary: &str| {
        let output = Command::new(binary).arg("--version").output().expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let ours = env!("CARGO_BIN_EXE_hookpost");
    assert_eq!(version(ours).trim(), concat!("hookpost ", env!("CARGO_PKG_VERSION")));
    let broken = crate::stage::broken_binary();
    assert!(version(broken.to_str().expect("text")).contains("BROKEN ON PURPOSE"));
    let manifest = include_str!("../../Cargo.toml");
    assert!(
        manifest.contains("negative-controls = []") && !manifest.contains("default = ["),
        "it is on by request only"
    );
}
