//! When a failed delivery is tried again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::types::DeliveryId;

/// Most waits that a schedule may name: enough for a fortnight of doubling, few enough to read in a log.
pub const MAX_WAITS: usize = 32;
/// Longest single wait.
pub const MAX_WAIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The waits between attempts: one attempt is made, then one more after each wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

impl Default for RetrySchedule {
    fn default() -> Self {
        Self([10, 30, 60, 300, 900].map(Duration::from_secs).to_vec())
    }
}

impl RetrySchedule {
    /// The wait after attempt number `attempt` (1 for the first) has failed; `None` when the schedule is spent.
    pub fn wait_after(&self, attempt: u32) -> Option<Duration> {
        self.0.get(usize::try_from(attempt).ok()?.checked_sub(1)?).copied()
    }

    /// A schedule of waits in seconds, which were checked when they came in.
    pub fn of_s(waits: &[u64]) -> Self {
        Self(waits.iter().copied().map(Duration::from_secs).collect())
    }

    /// The longest wait in it; zero when it is empty.
    pub fn longest(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }
}

/// Written as in `HOOKPOST_RETRY_SCHEDULE`: `10s,30s,1m,5m,15m`. Empty means a single attempt.
impl FromStr for RetrySchedule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let waits = text
            .split(',')
            .map(str::trim)
            .filter(|wait| !wait.is_empty())
            .map(|wait| humantime::parse_duration(wait).map_err(|e| format!("{wait:?} is not a duration ({e})")))
            .collect::<Result<Vec<_>, _>>()?;
        if waits.len() > MAX_WAITS {
            return Err(format!("{} waits, at most {MAX_WAITS} are allowed", waits.len()));
        }
        if let Some(wait) = waits.iter().find(|wait| **wait > MAX_WAIT) {
            return Err(format!("a wait of {} is over the limit of 7 days", humantime::format_duration(*wait)));
        }
        Ok(Self(waits))
    }
}

impl fmt::Display for RetrySchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waits: Vec<_> = self.0.iter().map(|wait| humantime::format_duration(*wait).to_string()).collect();
        f.write_str(&waits.join(","))
    }
}

/// Jitter adds at most this fraction of a wait, so that what failed together does not come back together.
pub(super) const JITTER_DIVISOR: u32 = 10;

/// Added to a wait, never taken from it: up to a tenth, drawn from the id so that it needs no randomness here.
pub(super) fn jitter(id: DeliveryId, number: u32, wait: Duration) -> Duration {
    let bound = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) / u64::from(JITTER_DIVISOR);
    // Fibonacci hashing spreads ids that differ in a counter only.
    let drawn = (id.0.as_u64_pair().1 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    Duration::from_millis(if bound == 0 { 0 } else { drawn % bound })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_one_attempt_and_five_more() {
        let schedule = RetrySchedule::default();
        assert_eq!(schedule.to_string(), "10s,30s,1m,5m,15m");
        assert_eq!(schedule.wait_after(1), Some(Duration::from_secs(10)));
        assert_eq!(schedule.wait_after(5), Some(Duration::from_secs(900)));
        assert_eq!(schedule.wait_after(6), None);
    }

    #[test]
    fn it_reads_what_it_prints() {
        let schedule: RetrySchedule = "10ms, 1s,2h".parse().expect("a schedule");
        assert_eq!(schedule.to_string().parse(), Ok(schedule));
    }

    #[test]
    fn an_empty_schedule_is_a_single_attempt() {
        assert_eq!("".parse::<RetrySchedule>().map(|s| s.wait_after(1)), Ok(None));
    }

    #[test]
    fn limits_are_refused_by_name() {
        assert!("8days".parse::<RetrySchedule>().is_err_and(|e| e.contains("7 days")));
        assert!(vec!["1s"; MAX_WAITS + 1].join(",").parse::<RetrySchedule>().is_err_and(|e| e.contains("33 waits")));
        assert!("soon".parse::<RetrySchedule>().is_err_and(|e| e.contains("\"soon\"")));
    }
}
