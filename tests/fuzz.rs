//! What the fuzzers check (`make fuzz`), in every run of the tests: each file of the corpora, and a bounded number of seeded
//! mutations of it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use hookpost::fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Of each file; with the default corpora that is under a second a target.
const MUTATIONS: u64 = 300;
/// What parsers divide at, and what they are known to read in two ways.
const FRAGMENTS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b"\"",
    b"\\",
    b"@",
    b"#",
    b"://",
    b":",
    b"/",
    b"?",
    b"=",
    b"|",
    b"[",
    b"]",
    b"{",
    b"}",
    b"%00",
    b"\xff",
    b"127.0.0.1",
    b"content-length: 1\r\n",
    b"0x",
];

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.display().to_string(), fs::read(&path).expect("a file")))
        .collect();
    files.sort();
    files
}

/// Runs a target, and says which input broke its promise.
fn hold(target: Target, source: &str, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("{source} broke it with {:?}", String::from_utf8_lossy(input));
        std::panic::resume_unwind(panic);
    }
}

/// A few cuts, copies, changed bytes and pasted fragments.
fn mutated(mut bytes: Vec<u8>, random: &mut StdRng) -> Vec<u8> {
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..=8)).min(bytes.len());
        match random.random_range(0..5) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.extend_from_within(at..end),
            2 if at < bytes.len() => bytes[at] = random.random(),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            _ => drop(bytes.splice(at..at, FRAGMENTS[random.random_range(0..FRAGMENTS.len())].iter().copied())),
        }
    }
    bytes
}

#[test]
fn every_target_has_a_corpus_and_holds_on_it() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(files.len() >= 5, "{name} has {} files", files.len());
        files.iter().for_each(|(file, input)| hold(target, file, input));
    }
}

#[test]
fn every_target_holds_on_mutations_of_its_corpus() {
    for (name, target) in TARGETS {
        for (file, input) in corpus(name) {
            for seed in 0..MUTATIONS {
                let mutation = mutated(input.clone(), &mut StdRng::seed_from_u64(seed));
                hold(target, &format!("mutation {seed} of {file}"), &mutation);
            }
        }
    }
}

#[test]
fn the_fuzzers_of_the_crate_are_the_targets_of_the_library() {
    let manifest =
        fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).expect("a file");
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is missing in fuzz/Cargo.toml");
    }
}
