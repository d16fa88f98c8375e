//! Every fault of `docs/reliability.md` that one Linux machine can produce, on the real program: a named scenario each,
//! which says what it measured. What this machine cannot produce is skipped, and said by name. The killing of services and
//! servers (rows 1 to 4, 9, 10 and 25) is in `tests/torture`.

mod clock;
mod disks;
mod figures;
mod image;
mod load;
mod netns;
mod peer;
mod power;
mod receivers;
mod site;
mod strace;
mod surroundings;
mod syncs;
mod syns;
mod times;
mod tools;

#[path = "../ledger/mod.rs"]
#[allow(clippy::unwrap_used, reason = "a part of it is of a test in which what fails ends it")]
mod ledger;

use std::time::Duration;

/// How long a test waits for something that must happen, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
