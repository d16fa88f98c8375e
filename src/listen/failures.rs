//! Failing on purpose: which deliveries are refused, so that retries can be watched.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use http::StatusCode;

/// Most webhook-ids that are counted at a time. When there are more, counting begins anew, which only fails some again.
const MAX_COUNTED: usize = 10_000;

/// How many deliveries of each webhook-id fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailFirst {
    /// This many, then none.
    First(u32),
    /// All of them.
    Always,
}

impl FromStr for FailFirst {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(Self::Always),
            _ => text.parse().map(Self::First).map_err(|_| "expected a number such as 2, or `always`".to_owned()),
        }
    }
}

pub(super) struct Failures {
    first: FailFirst,
    status: StatusCode,
    counted: Mutex<HashMap<String, u32>>,
}

impl Failures {
    pub fn new(first: FailFirst, status: StatusCode) -> Self {
        Self { first, status, counted: Mutex::default() }
    }

    /// Counts a delivery of this id; the status to fail it with, if it is to fail.
    pub fn next(&self, webhook_id: &str) -> Option<StatusCode> {
        let fails = match self.first {
            FailFirst::Always => true,
            FailFirst::First(0) => false,
            FailFirst::First(n) => self.count(webhook_id) <= n,
        };
        fails.then_some(self.status)
    }

    fn count(&self, webhook_id: &str) -> u32 {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= MAX_COUNTED && !counted.contains_key(webhook_id) {
            counted.clear();
        }
        let count = counted.entry(webhook_id.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(first: FailFirst) -> Failures {
        Failures::new(first, StatusCode::BAD_GATEWAY)
    }

    #[test]
    fn the_first_deliveries_of_each_id_fail() {
        let failures = failures(FailFirst::First(2));
        let answers: Vec<_> = ["a", "a", "b", "a", "b", "b"].map(|id| failures.next(id).is_some()).into();
        assert_eq!(answers, [true, true, true, false, true, false]);
    }

    #[test]
    fn always_and_never_need_no_counting() {
        for (first, expected) in [(FailFirst::Always, Some(StatusCode::BAD_GATEWAY)), (FailFirst::First(0), None)] {
            let failures = failures(first);
            assert_eq!([failures.next("a"), failures.next("a")], [expected; 2]);
            assert!(failures.counted.lock().unwrap().is_empty());
        }
    }

    #[test]
    fn ids_are_counted_up_to_a_bound() {
        let failures = failures(FailFirst::First(1));
        for id in 0..=MAX_COUNTED {
            failures.next(&id.to_string());
        }
        assert_eq!(failures.counted.lock().unwrap().len(), 1);
    }

    #[test]
    fn fail_is_a_number_or_always() {
        assert_eq!("3".parse(), Ok(FailFirst::First(3)));
        assert_eq!("always".parse(), Ok(FailFirst::Always));
        assert!("-1".parse::<FailFirst>().unwrap_err().contains("always"));
    }
}
