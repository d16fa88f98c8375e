//! `hookpost doctor`: prints what was found, and fails if anything does not work.

use std::process::ExitCode;

use super::{finish, print, runtime};
use crate::config::{ConfigError, Resolved};
use crate::doctor::{examine, has_failed, lines};

pub(super) const HELP: &str = "\
Each line is a check: ok, warn (it works, and may not when it matters) or fail, what was found, and
what to do.
Nothing is changed, no secret is shown, and a service may run beside it.

Examples:
  hookpost doctor                          with the environment of the service
  hookpost doctor --json | jq '.[] | select(.verdict != \"ok\")'

Exit status: 0 nothing has failed, 1 something has.";

pub(super) fn run(loaded: &Result<Resolved, ConfigError>, json: bool) -> ExitCode {
    let findings = match runtime() {
        Ok(runtime) => runtime.block_on(examine(loaded)),
        Err(error) => return finish(Err(error)),
    };
    let text = if json {
        serde_json::to_string_pretty(&findings).expect("texts can always be written as JSON") + "\n"
    } else {
        lines(&findings)
    };
    match print(&text) {
        Ok(()) if has_failed(&findings) => ExitCode::FAILURE,
        printed => finish(printed),
    }
}
