//! What the machine gives: file descriptors, and space.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use super::Finding;

/// Connections of callers, of attempts, and idle ones to receivers, as the bounds of each have it, and room for the rest.
const MAY_NEED: u64 = 4096 + 2048 + 2048 + 128;
/// With fewer not even a small service gets far.
const LEAST: u64 = 256;
/// Below it the embedded store is about to be full: retention keeps days of payloads.
const LITTLE_SPACE: u64 = 1024 * 1024 * 1024;
const NO_SPACE: u64 = 64 * 1024 * 1024;

pub(super) fn descriptors() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    judge_descriptors(limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

pub(super) fn judge_descriptors(soft: u64, hard: u64) -> Finding {
    let text = format!("at most {soft} open at once; a busy service takes up to {MAY_NEED}");
    let todo = if hard >= MAY_NEED {
        format!("`ulimit -n {MAY_NEED}` before the start, or LimitNOFILE={MAY_NEED} in the systemd unit")
    } else {
        format!("raise the hard limit, which is {hard}: LimitNOFILE={MAY_NEED} in the systemd unit")
    };
    match soft {
        u64::MAX => Finding::ok("file descriptors", "no limit"),
        _ if soft >= MAY_NEED => Finding::ok("file descriptors", text),
        _ if soft >= LEAST => Finding::warn("file descriptors", text, todo),
        _ => Finding::fail("file descriptors", text, todo),
    }
}

/// On the disk where the embedded store is, or will be.
pub(super) fn space(data_dir: &Path) -> Finding {
    let existing = data_dir.ancestors().find(|path| path.exists()).map(Path::to_owned);
    let place = existing.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from("."));
    match rustix::fs::statvfs(&place) {
        Ok(disk) => judge_space(disk.f_bavail.saturating_mul(disk.f_frsize), data_dir),
        Err(error) => Finding::warn("disk space", format!("{}: {error}", place.display()), "look at the disk by hand"),
    }
}

pub(super) fn judge_space(free: u64, data_dir: &Path) -> Finding {
    let text = format!("{} MiB are free at {}", free / 1024 / 1024, data_dir.display());
    let todo = "make room or shorten HOOKPOST_RETENTION: with a full disk events are refused";
    match free {
        _ if free < NO_SPACE => Finding::fail("disk space", text, todo),
        _ if free < LITTLE_SPACE => Finding::warn("disk space", text, todo),
        _ => Finding::ok("disk space", text),
    }
}
