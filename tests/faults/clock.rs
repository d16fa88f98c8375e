//! A wall clock that can be stepped under a running process, by libfaketime. The monotonic one goes on.

use tempfile::TempDir;

use crate::image::text;
use crate::tools::faketime;

/// The clock of one process, which may be started several times.
pub struct WallClock(TempDir);

impl WallClock {
    pub fn new() -> Self {
        let clock = Self(tempfile::tempdir().expect("a directory"));
        clock.step(0);
        clock
    }

    /// So far from the real one, in seconds, from now on.
    pub fn step(&self, seconds: i64) {
        let next = self.0.path().join("next");
        std::fs::write(&next, format!("{seconds:+}s\n")).expect("a file");
        // At once: never half of it.
        std::fs::rename(next, self.file()).expect("a file");
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("clock")
    }

    /// The environment of a process that goes by it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let library = faketime().expect("checked before");
        let variables = [
            ("LD_PRELOAD", text(library).to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file()).to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    }
}
