//! What is found is judged as it should be, and every fault comes with something to do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::environment::{exposure, judge_redis, targets};
use super::machine::{judge_descriptors, judge_space};
use super::store::judge;
use super::*;
use crate::cache::RedisExamination;
use crate::config::{Flags, resolve};
use crate::delivery::Timestamp;
use crate::store::Examination;

const NOW: Timestamp = Timestamp(1_750_000_000_000);

fn config(env: &[(&str, &str)]) -> Config {
    let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    resolve(None, &env, &Flags::default()).expect("a configuration").config
}

/// A store that is well.
fn well() -> Examination {
    Examination {
        product: "PostgreSQL 16.4".to_owned(),
        answered_in: Duration::from_millis(1),
        schema: (8, 8),
        writable: Some(Ok(())),
        owner: None,
        watermark: Some(NOW - Duration::from_secs(30)),
        clocks: Some((NOW, NOW)),
        undurable: Vec::new(),
        connections: Some((10, 97)),
    }
}

/// The verdict on a check, with what is said.
fn of<'a>(findings: &'a [Finding], check: &str) -> (Verdict, &'a str) {
    let found = findings.iter().find(|finding| finding.check == check);
    found.map(|finding| (finding.verdict, finding.found.as_str())).unwrap_or_else(|| panic!("{check} in {findings:?}"))
}

#[track_caller]
fn finds(examination: &Examination, check: &str, verdict: Verdict, said: &str) {
    let findings = judge(examination, NOW);
    let (found, text) = of(&findings, check);
    assert!(found == verdict && text.contains(said), "{findings:?}");
    let others = findings.iter().filter(|finding| finding.check != check);
    assert!(others.clone().all(|other| other.verdict == Verdict::Ok), "{findings:?}");
    for finding in &findings {
        assert_eq!(finding.todo.is_some(), finding.verdict != Verdict::Ok, "{finding:?}");
    }
}

#[test]
fn a_store_that_is_well_is_ok_in_every_respect() {
    finds(&well(), "store", Verdict::Ok, "PostgreSQL 16.4 answers in 1.0 ms");
}

#[test]
fn each_fault_of_a_store_is_found() {
    use Verdict::{Fail, Ok, Warn};
    let slow = Examination { answered_in: Duration::from_millis(50), ..well() };
    finds(&slow, "store", Warn, "50.0 ms");
    finds(&Examination { schema: (7, 8), ..well() }, "schema", Warn, "version 7");
    finds(&Examination { schema: (9, 8), ..well() }, "schema", Fail, "version 9");
    finds(&Examination { schema: (0, 8), writable: None, ..well() }, "schema", Warn, "none yet");
    finds(&Examination { writable: Some(Err("disk full".to_owned())), ..well() }, "store writes", Fail, "disk full");
    finds(&Examination { owner: Some("hookpost at db".to_owned()), ..well() }, "store owner", Ok, "would stand by");
    finds(&Examination { undurable: vec!["fsync is off".to_owned()], ..well() }, "durability", Fail, "fsync");
    finds(&Examination { connections: Some((90, 97)), ..well() }, "connections", Warn, "90 connections of at most 97");
}

#[test]
fn clocks_that_disagree_are_found_from_both_sides() {
    for (theirs, said) in [(NOW + Duration::from_secs(3), "3s ahead"), (NOW - Duration::from_secs(3), "3s behind")] {
        finds(&Examination { clocks: Some((theirs, NOW)), ..well() }, "clock", Verdict::Warn, said);
    }
    let stored = Examination { watermark: Some(NOW + Duration::from_secs(60)), clocks: None, ..well() };
    finds(&stored, "clock", Verdict::Warn, "1m ahead of this machine's clock, which was set back");
}

#[test]
fn redis_is_judged_by_version_role_memory_and_latency() {
    let redis = |version: &str, role: &str, memory: u64, policy: &str, ms| {
        judge_redis(&RedisExamination {
            version: version.to_owned(),
            answered_in: Duration::from_millis(ms),
            role: role.to_owned(),
            memory: (memory, policy.to_owned()),
        })
        .verdict
    };
    assert_eq!(redis("7.2.4", "master", 0, "noeviction", 1), Verdict::Ok);
    assert_eq!(redis("5.0.14", "master", 0, "noeviction", 1), Verdict::Fail);
    assert_eq!(redis("7.2.4", "slave", 0, "noeviction", 1), Verdict::Fail);
    assert_eq!(redis("7.2.4", "master", 1 << 30, "noeviction", 1), Verdict::Warn);
    assert_eq!(redis("7.2.4", "master", 1 << 30, "volatile-lru", 1), Verdict::Ok);
    assert_eq!(redis("7.2.4", "master", 0, "noeviction", 50), Verdict::Warn);
}

#[test]
fn limits_of_the_machine_are_judged_at_their_edges() {
    assert_eq!(judge_descriptors(255, 255).verdict, Verdict::Fail);
    assert_eq!(judge_descriptors(1024, 1024 * 1024).verdict, Verdict::Warn);
    assert!(judge_descriptors(1024, 4096).todo.is_some_and(|todo| todo.contains("hard limit, which is 4096")));
    assert_eq!(judge_descriptors(8320, 8320).verdict, Verdict::Ok);
    let (mib, here) = (1024 * 1024, Path::new("data"));
    assert_eq!(judge_space(63 * mib, here).verdict, Verdict::Fail);
    assert_eq!(judge_space(1023 * mib, here).verdict, Verdict::Warn);
    assert_eq!(judge_space(1024 * mib, here).verdict, Verdict::Ok);
}

#[test]
fn whom_it_may_send_to_and_who_may_reach_it_is_said() {
    let safe = [("HOOKPOST_REQUIRE_HTTPS", "true"), ("HOOKPOST_ALLOW_TARGETS", "10.1.0.0/16")];
    let findings = targets(&config(&safe));
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:?}");
    assert!(of(&findings, "targets").1.contains("10.1.0.0/16"));
    for open in ["169.254.0.0/16", "0.0.0.0/0", "fd00::/8"] {
        let env = [("HOOKPOST_ALLOW_TARGETS", open), ("HOOKPOST_REFUSED_PORTS", "none")];
        let findings = targets(&config(&env));
        for check in ["targets", "https", "refused ports"] {
            assert_eq!(of(&findings, check).0, Verdict::Warn, "{open}: {findings:?}");
        }
    }
    let exposed = |listen, auth| exposure(&config(&[("HOOKPOST_LISTEN", listen), ("HOOKPOST_AUTH", auth)])).verdict;
    assert_eq!(exposed("0.0.0.0:80", "off"), Verdict::Warn);
    assert_eq!((exposed("0.0.0.0:80", "keys"), exposed("127.0.0.1:80", "off")), (Verdict::Ok, Verdict::Ok));
}

#[test]
fn a_finding_is_one_line_whatever_was_said() {
    let findings = [Finding::ok("store", "all\nis\rwell"), Finding::fail("schema", "none", "make one")];
    assert_eq!(lines(&findings), "ok    store   all is well\nfail  schema  none; make one\n");
    assert!(has_failed(&findings) && !has_failed(&findings[..1]));
}
