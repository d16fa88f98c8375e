//! What a run is told from outside: how long it is, and what a run that is repeated has drawn.

/// Kills of a short run on each store: every fault once, and the service's own death several times.
pub const SHORT: usize = 12;
/// Most kills of one round: a long run starts anew after so many, so that a finding has a short story.
pub const ROUND: usize = 100;

/// Kills on each store.
pub fn kills() -> usize {
    number("TORTURE_KILLS").map_or(SHORT, |kills| usize::try_from(kills).expect("it is small"))
}

/// What the round draws from; printed, so that it can be given again. Odd in odd rounds, which are of another kind.
pub fn seed(round: usize) -> u64 {
    number("TORTURE_SEED").unwrap_or_else(|| rand::random_range(0..500_000_000_u64) * 2) + round as u64
}

#[expect(clippy::disallowed_methods, reason = "the test's own environment, not the service's")]
fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value}: expected a number")))
}
