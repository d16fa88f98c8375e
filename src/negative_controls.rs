//! Promises broken on purpose, each at exactly the place that keeps it: the tests of this project run their scenarios against
//! them, too, and must see each one fail. Compiled only with the feature `negative-controls`, which never ships.

use std::sync::OnceLock;

use crate::store::Recovery;

/// What the process is told by. Not a setting: no program without the feature reads it.
const VARIABLE: &str = "NEGATIVE_CONTROL";

/// What `--version` and the log say of such a program.
pub const WARNING: &str = "BROKEN ON PURPOSE by the feature negative-controls: loses events, never ship it";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Control {
    AckBeforeCommit,
    SkipRecovery,
    IgnoreFencing,
    PanicOnEvent,
}

/// Whether producers are answered before the commit.
pub fn acks_before_commit() -> bool {
    chosen() == Some(Control::AckBeforeCommit)
}

/// What a new owner makes of what the last one left.
pub fn recovered(recovery: Recovery) -> Recovery {
    match chosen() {
        Some(Control::SkipRecovery) => Recovery { untried: Vec::new(), positions: Vec::new(), ..recovery },
        _ => recovery,
    }
}

/// Whether a process that has lost the store to another goes on committing.
pub fn ignores_fencing() -> bool {
    chosen() == Some(Control::IgnoreFencing)
}

/// A bug in an actor: it panics when it is handed an event of the type `panic`.
pub fn panics_on(event_type: Option<&str>) {
    assert!(chosen() != Some(Control::PanicOnEvent) || event_type != Some("panic"), "told to panic on this event");
}

#[expect(clippy::disallowed_methods, reason = "no setting of the program: it exists in tests only")]
fn chosen() -> Option<Control> {
    static CHOSEN: OnceLock<Option<Control>> = OnceLock::new();
    *CHOSEN.get_or_init(|| match std::env::var(VARIABLE).ok()?.as_str() {
        "ack-before-commit" => Some(Control::AckBeforeCommit),
        "skip-recovery" => Some(Control::SkipRecovery),
        "ignore-fencing" => Some(Control::IgnoreFencing),
        "panic-on-event" => Some(Control::PanicOnEvent),
        other => {
            panic!("{VARIABLE}={other}: expected ack-before-commit, skip-recovery, ignore-fencing or panic-on-event")
        }
    })
}
