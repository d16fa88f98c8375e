//! The table of `docs/reliability.md` as it comes out of a run: which scenarios there are, what each expects, and what it
//! measured. `make faults` prints it.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

use serde_json::json;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::tools::Need;

/// A row, or a part of one.
pub struct Scenario {
    /// The fault's number in `docs/reliability.md`.
    pub row: u8,
    /// The test's, too.
    pub name: &'static str,
    /// Of what is asserted; `{}` is the bound.
    expected: &'static str,
    /// That of the table, and a looser one; see [`is_strict`]. Empty where the text says it.
    bounds: &'static [u64],
    pub needs: &'static [Need],
}

macro_rules! scenarios {
    ($($row:literal $name:ident $expected:literal $(($strict:literal $loose:literal))? [$($need:ident)*])*) => {
        pub const SCENARIOS: &[Scenario] = &[$(Scenario {
            row: $row,
            name: stringify!($name),
            expected: $expected,
            bounds: &[$($strict, $loose)?],
            needs: &[$(Need::$need),*],
        }),*];
    };
}

scenarios! {
    5 postgres_is_stopped "503 within {} s, memory + ≤ 10 %" (6 9) [Postgres]
    6 power_cut_on_sqlite "0 acked lost" [LoopMount]
    6 power_cut_on_postgres "0 acked lost" [Postgres LoopMount]
    6 power_cut_with_synchronous_commit_off "control: acked events are lost" [Postgres LoopMount]
    6 power_cut_of_a_disk_that_lies "control: acked events are lost" [LoopMount Strace]
    7 fsync_fails_on_sqlite "0 acks meanwhile, 0 acked lost" [Strace]
    7 fsync_fails_on_postgres "0 acks meanwhile, 0 acked lost" [Postgres Strace]
    7 some_fsyncs_fail_and_then_power "0 acked lost" [LoopMount Strace]
    8 disk_full_on_sqlite "503, accepting ≤ {} s after there is room" (10 15) [LoopMount]
    8 disk_full_on_postgres "503, accepting ≤ {} s after there is room" (10 15) [Postgres LoopMount]
    11 receiver_refuses "waits of the schedule, error ≤ jitter + {} ms" (10 800) [RawSocket]
    12 receiver_is_a_black_hole "given up after 5 s + ≤ {} ms" (50 800) [RawSocket]
    13 receiver_hangs "deadline ± 1 s" []
    13 receiver_drips "deadline ± 1 s" []
    14 receiver_resets "retry with the same id" []
    15 receiver_pours_10_gb "memory + ≤ 1 MB each" []
    15 receiver_pours_chunks_without_end "memory + ≤ 1 MB each" []
    15 receiver_answers_with_a_gzip_bomb "memory + ≤ 1 MB each" []
    16 receiver_says_retry_after "0 early sends" []
    16 receiver_says_retry_after_a_year "capped at 1 h" []
    17 receiver_is_gone "disabled, notified, 0 further attempts" []
    18 dns_hangs "healthy p99 + ≤ {} ms" (5 105) []
    18 dns_fails "healthy p99 + ≤ {} ms" (5 105) []
    19 clock_goes_an_hour_ahead "no storm, no stall" [Faketime]
    19 clock_goes_an_hour_back "no storm, no stall" [Faketime]
    20 partition_heals_with_a_backlog "rate limit reached (≥ 70 %), peak ≤ 2 × it, 0 lost" [NetworkNamespace]
    21 actor_panics "restarts, 0 lost, others' p99 + ≤ {} ms" (5 105) [NegativeControls]
    22 secret_is_rotated_during_retries "both signatures verify, 100 %" []
    23 subscription_is_deleted_in_flight "≤ 1 further attempt each" []
    24 file_descriptors_run_out "attempts fail for want of one; no crash, 0 lost, serving again" [Prlimit]
}

/// Scenarios that measure latency or memory run alone, the others beside each other.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// A scenario that runs.
pub struct Figures {
    scenario: &'static Scenario,
}

/// The scenario of this name, or `None` when this machine cannot produce it: then that is said, by name.
#[track_caller]
pub fn scenario(name: &str) -> Option<Figures> {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    let scenario = found.unwrap_or_else(|| panic!("{name} is not in the table"));
    let missing: Vec<_> = scenario.needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        // Replaced by the figure. What stays like this has failed.
        scenario.write("measured", "FAILED");
        return Some(Figures { scenario });
    }
    let missing = missing.join(", ");
    // Past libtest, which keeps what tests print to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {name} {missing}");
    scenario.write("skipped", &format!("SKIPPED: {missing}"));
    None
}

impl Scenario {
    fn bound(&self) -> u64 {
        self.bounds[usize::from(!is_strict())]
    }

    /// What this run asserts.
    fn expected(&self) -> String {
        if self.bounds.is_empty() {
            self.expected.to_owned()
        } else {
            self.expected.replace("{}", &self.bound().to_string())
        }
    }

    fn write(&self, field: &str, text: &str) {
        let (Self { row, name, .. }, expected) = (self, self.expected());
        let json = json!({ "row": row, "name": name, "expected": expected, field: text });
        let path = folder().join(format!("{row:02}-{name}"));
        std::fs::write(path.with_extension("json"), json.to_string()).expect("the folder can be written to");
        let line = format!("| {row} | `{name}` | {expected} | {text} |\n");
        std::fs::write(path.with_extension("row"), line).expect("the folder can be written to");
    }
}

impl Figures {
    /// Writes down what came out. Called before it is judged: what is wrong is seen, too.
    pub fn record(&self, measured: impl Display) {
        self.scenario.write("measured", &measured.to_string());
    }

    /// What is asserted in this run, in the unit that the table names.
    pub fn bound(&self) -> u64 {
        self.scenario.bound()
    }

    /// While others run.
    pub async fn beside_others(&self) -> RwLockReadGuard<'static, ()> {
        MACHINE.read().await
    }

    /// While no other scenario runs.
    pub async fn alone(&self) -> RwLockWriteGuard<'static, ()> {
        MACHINE.write().await
    }

    /// Alone where the table's bound is asserted, otherwise while others run.
    pub async fn alone_if_strict(&self) -> impl Sized {
        match is_strict() {
            true => (Some(self.alone().await), None),
            false => (None, Some(self.beside_others().await)),
        }
    }
}

fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("faults");
    std::fs::create_dir_all(&folder).expect("the target folder can be written to");
    folder
}

/// Whether the bounds are those of the table, as with `make faults`. `make test` runs other tests beside these, on any
/// machine, and leaves a margin for that.
#[expect(clippy::disallowed_methods, reason = "the test's own environment, not the service's")]
fn is_strict() -> bool {
    std::env::var_os("FAULTS_STRICT").is_some_and(|strict| strict == "1")
}

/// Whether the long forms are wanted: `LONG=1`.
#[expect(clippy::disallowed_methods, reason = "the test's own environment, not the service's")]
pub fn long() -> bool {
    std::env::var_os("LONG").is_some_and(|long| long == "1")
}

#[test]
fn docs_reliability_md_names_every_scenario_and_every_row() {
    let docs = include_str!("../../docs/reliability.md");
    let unnamed: Vec<_> =
        SCENARIOS.iter().map(|s| s.name).filter(|name| !docs.contains(&format!("`{name}`"))).collect();
    assert!(unnamed.is_empty(), "docs/reliability.md does not name {unnamed:?}");
    let absent: Vec<_> = (1..=25).filter(|row| !docs.contains(&format!("\n| {row} |"))).collect();
    assert!(absent.is_empty(), "docs/reliability.md has no rows {absent:?}");
    let owed: Vec<_> = docs.lines().filter(|line| line.contains("*figure")).collect();
    assert!(owed.is_empty(), "docs/reliability.md has rows without a figure: {owed:#?}");
}
