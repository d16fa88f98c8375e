//! A seed makes the same world every time, to the last line of its trace.

use crate::world;

#[test]
fn a_seed_replays_exactly() {
    for seed in 1..=12 {
        let (first, second) = (world::run(seed, None, false), world::run(seed, None, false));
        assert_eq!(first.fingerprint, second.fingerprint, "seed {seed}: of one world two have come");
        assert!(first.requests + first.lives > 1, "seed {seed}: nothing happens");
    }
}

#[test]
fn another_seed_makes_another_world() {
    assert_ne!(world::run(1, None, false).fingerprint, world::run(2, None, false).fingerprint);
}
