use std::collections::VecDeque;

use super::*;

const MAX: usize = 2048;

fn claimant(subscription: i64, tenant: &str) -> Claimant {
    Claimant { subscription: SubscriptionId(subscription), tenant: tenant.into(), standing: Standing::Proven }
}

fn suspect(subscription: i64) -> Claimant {
    Claimant { standing: Standing::Suspect, ..claimant(subscription, "t") }
}

/// Asks until one has to wait, at most `most` times.
fn take_all(shares: &mut Shares<i64>, claimant: &Claimant, most: usize) -> Vec<Place> {
    (0..most).map_while(|_| shares.take(claimant)).collect()
}

fn settle(shares: &mut Shares<i64>) -> Vec<(i64, Place)> {
    std::iter::from_fn(|| shares.next()).collect()
}

#[test]
fn one_alone_may_hold_a_ninth_and_one_tenant_two_thirds() {
    let mut shares = Shares::new(MAX);
    let alone = take_all(&mut shares, &claimant(0, "t"), MAX);
    assert!(alone.len().abs_diff(MAX / 9) <= 1, "{}", alone.len());
    let others = (1..100).flat_map(|id| take_all(&mut shares, &claimant(id, "t"), MAX)).count();
    assert!((alone.len() + others).abs_diff(MAX * 2 / 3) <= 100, "{}", alone.len() + others);
    let other_tenant = take_all(&mut shares, &claimant(1000, "u"), MAX);
    assert!(other_tenant.len() > MAX / 40, "{}", other_tenant.len());
}

#[test]
fn a_newcomer_gets_a_place_at_once_while_a_thousand_hanging_subscriptions_hold_what_they_may() {
    for tenants in [1, 1000] {
        let mut shares = Shares::new(MAX);
        let mut held = Vec::new();
        for id in 0..1000 {
            let hanging = Claimant { standing: Standing::New, ..claimant(id, &format!("t{}", id % tenants)) };
            for _ in 0..8 {
                match shares.take(&hanging) {
                    Some(place) => held.push(place),
                    None => drop(shares.wait(&hanging, id)),
                }
            }
        }
        held.extend(settle(&mut shares).into_iter().map(|(_, place)| place));
        assert!(held.len() >= 1000, "everyone has one");
        for newcomer in 1000..1010 {
            assert!(shares.take(&claimant(newcomer, "t0")).is_some(), "newcomer {newcomer}, {tenants} tenants");
        }
    }
}

#[test]
fn suspects_hold_at_most_half_of_all_places() {
    let mut shares = Shares::<i64>::new(MAX);
    let held = (0..5000).filter_map(|id| shares.take(&suspect(id))).count();
    assert_eq!(held, MAX / 2);
    assert!(shares.take(&claimant(9999, "t")).is_some());
}

#[test]
fn a_few_suspects_get_their_first_place_on_a_full_node() {
    let mut shares = Shares::new(MAX);
    (0..).map_while(|id| shares.take(&claimant(id, &format!("t{id}")))).count();
    let full = shares.held();
    assert_eq!(full, MAX);
    shares.wait(&suspect(-1), 1);
    shares.wait(&claimant(-2, "u"), 2);
    shares.give(Place(claimant(0, "t0")));
    assert_eq!(settle(&mut shares).into_iter().map(|(waiter, _)| waiter).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_place_goes_to_the_one_that_holds_the_fewest_and_then_to_the_one_that_waited_longest() {
    let mut shares = Shares::new(8);
    let mut held: Vec<_> = (0..8).filter_map(|id| shares.take(&claimant(id, &format!("t{id}")))).collect();
    assert_eq!(held.len(), 8);
    shares.wait(&claimant(7, "t7"), 70);
    shares.wait(&claimant(9, "t9"), 90);
    shares.wait(&claimant(8, "t8"), 80);
    for expected in [90, 80] {
        shares.give(held.remove(0));
        let granted = settle(&mut shares);
        assert_eq!(granted.iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn a_waiter_that_leaves_is_not_told() {
    let mut shares = Shares::new(1);
    let place = shares.take(&claimant(1, "t")).unwrap();
    let ticket = shares.wait(&claimant(2, "t"), 2);
    shares.wait(&claimant(3, "t"), 3);
    shares.leave(&claimant(2, "t"), ticket);
    shares.give(place);
    let [(waiter, place)] = settle(&mut shares).try_into().unwrap();
    assert_eq!(waiter, 3);
    shares.give(place);
    assert!(shares.is_idle());
    assert!(shares.subscriptions.is_empty() && shares.tenants.is_empty() && shares.queues.is_empty());
}

#[test]
fn one_that_is_a_suspect_no_longer_waits_as_the_healthy_do() {
    let mut shares = Shares::new(64);
    let held = (0..64).filter_map(|id| shares.take(&suspect(id))).count();
    assert_eq!(held, 32);
    shares.wait(&suspect(100), 1);
    assert!(shares.next().is_none());
    shares.wait(&claimant(100, "t"), 2);
    assert_eq!(settle(&mut shares).into_iter().map(|(waiter, _)| waiter).collect::<Vec<_>>(), [1, 2]);
}

/// xorshift64: enough to mix things up, and the same every time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn whatever_happens_the_bounds_hold_and_everyone_gets_a_place_in_the_end() {
    for seed in 1..=50 {
        let mut draw = Draw(seed * 0x9e37_79b9);
        let max = [1, 2, 7, 64][draw.below(4) as usize];
        let mut shares = Shares::new(max);
        let mut held = VecDeque::new();
        let (mut asked, mut served, mut waiting) = (0, 0, Vec::new());
        let check = |shares: &Shares<i64>, held: usize| {
            assert!(held <= max && shares.held() == held, "seed {seed}: {held} of {max}");
            assert!(shares.suspects_held <= max / 2, "seed {seed}: suspects hold {} of {max}", shares.suspects_held);
        };
        for _ in 0..2000 {
            match draw.below(8) {
                0..4 => {
                    let id = i64::try_from(draw.below(40)).unwrap();
                    // Of one place nothing is left for suspects.
                    let standing = STANDINGS[draw.below(if max > 1 { 3 } else { 2 }) as usize];
                    let claimant = Claimant { standing, ..claimant(id, ["a", "b", "c"][id as usize % 3]) };
                    asked += 1;
                    match shares.take(&claimant) {
                        Some(place) => held.push_back(place),
                        None => waiting.push((claimant.clone(), shares.wait(&claimant, id))),
                    }
                }
                4 if !waiting.is_empty() => {
                    let at = draw.below(waiting.len() as u64) as usize;
                    let (claimant, ticket) = waiting.swap_remove(at);
                    let before = shares.waiting;
                    shares.leave(&claimant, ticket);
                    served += before - shares.waiting;
                }
                _ => {
                    let at = draw.below(held.len().max(1) as u64) as usize;
                    if let Some(place) = held.remove(at) {
                        shares.give(place);
                        served += 1;
                    }
                }
            }
            held.extend(settle(&mut shares).into_iter().map(|(_, place)| place));
            check(&shares, held.len());
        }
        while let Some(place) = held.pop_front() {
            shares.give(place);
            served += 1;
            held.extend(settle(&mut shares).into_iter().map(|(_, place)| place));
            check(&shares, held.len());
        }
        assert_eq!((served, shares.waiting), (asked, 0), "seed {seed}: nobody waits for ever");
        assert!(shares.is_idle() && shares.subscriptions.is_empty() && shares.queues.is_empty());
    }
}
