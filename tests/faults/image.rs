//! A disk whose power can be cut: an ext4 file system in a file.
//!
//! What a program has written stays in the page cache of the mounted file system until it is synced, or written back by
//! the kernel; only then the loop device puts it into the file. So a copy of the file is what a disk would hold: what was
//! not synced is not in it. Nothing else than a sync writes back meanwhile: the journal commits by itself every ten minutes
//! only, and the kernel writes back data after 30 s, so the copy must be complete before that.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::tools::{is_running, run, try_run};

/// Not TMPDIR: root's may be closed to the user of PostgreSQL.
const FOLDER: &str = "/tmp";
/// From what must not be lost to the end of the copy: less than what the kernel waits before it writes back by itself.
const NOT_YET_WRITTEN_BACK: Duration = Duration::from_secs(25);
const PREFIX: &str = "hookpost-disk-";

/// Unmounted and removed with the test.
pub struct Disk {
    dir: TempDir,
    size_mb: u64,
}

impl Disk {
    /// An empty file system. The file is sparse: what is not written takes no room.
    pub fn new(size_mb: u64) -> Self {
        sweep();
        let disk = Self::unmounted(size_mb);
        let file = File::create(disk.file()).expect("a file");
        file.set_len(size_mb * 1024 * 1024).expect("a sparse file");
        // No reserve for root, and nothing that the kernel would write in the background later.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", options, text(&disk.file())]);
        disk.mount();
        disk
    }

    fn unmounted(size_mb: u64) -> Self {
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(FOLDER).expect("a directory");
        // The user of PostgreSQL passes through it.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("permissions");
        std::fs::create_dir(dir.path().join("mnt")).expect("a directory");
        Self { dir, size_mb }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn mount(&self) {
        run("mount", &["-t", "ext4", "-o", "loop,commit=600", text(&self.file()), text(&self.path())]);
    }

    /// The disk as it would be found if the power were cut now, after the journal's replay. Whoever writes must have been
    /// stopped: the copy takes a moment. Nothing that was written before `begun` is looked for in it.
    pub fn after_a_power_cut(&self, begun: Instant) -> Self {
        let copy = Self::unmounted(self.size_mb);
        run("cp", &["--sparse=always", text(&self.file()), text(&copy.file())]);
        let took = begun.elapsed();
        assert!(took < NOT_YET_WRITTEN_BACK, "the kernel may have written back what nobody synced: {took:?}");
        copy.mount();
        copy
    }

    /// Leaves no room, until [`Disk::free`].
    pub fn fill(&self) {
        let size = (self.size_mb * 1024 * 1024).to_string();
        // Takes what there is, and fails for the rest.
        try_run("fallocate", &["--length", &size, text(&self.filler())]);
        try_run(
            "dd",
            &["if=/dev/zero", "bs=4k", "oflag=append", "conv=notrunc", &format!("of={}", text(&self.filler()))],
        );
    }

    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The loop device goes with the last user of the mount.
        let path = self.path();
        if !try_run("umount", &[text(&path)]) {
            try_run("umount", &["--lazy", text(&path)]);
        }
    }
}

/// Removes what runs that were killed have left mounted.
fn sweep() {
    for entry in std::fs::read_dir(FOLDER).expect("it is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid| !is_running(pid)) {
            try_run("umount", &["--lazy", text(&entry.path().join("mnt"))]);
            // Never what is still mounted in it: a folder that is not empty stays.
            let _ = std::fs::remove_file(entry.path().join("disk.img"));
            let _ = std::fs::remove_dir(entry.path().join("mnt"));
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}
