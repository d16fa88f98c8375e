//! Where a delivery stands: not stored anywhere, it follows from its attempts and its subscription.

use super::types::{DeliveryState, Outcome};

impl DeliveryState {
    /// The state when this was the last outcome, if there was one.
    pub fn of(last: Option<Outcome>, subscription_exists: bool) -> Self {
        match (last, subscription_exists) {
            (Some(Outcome::Success), _) => Self::Delivered,
            (Some(Outcome::Failure), _) => Self::Failed,
            (_, false) => Self::Cancelled,
            (Some(Outcome::FailedAttempt), true) => Self::Retrying,
            (None, true) => Self::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_stays_so_when_its_subscription_is_deleted() {
        for exists in [true, false] {
            assert_eq!(DeliveryState::of(Some(Outcome::Success), exists), DeliveryState::Delivered);
            assert_eq!(DeliveryState::of(Some(Outcome::Failure), exists), DeliveryState::Failed);
        }
    }

    #[test]
    fn what_has_not_ended_is_cancelled_with_its_subscription() {
        assert_eq!(DeliveryState::of(None, true), DeliveryState::Pending);
        assert_eq!(DeliveryState::of(Some(Outcome::FailedAttempt), true), DeliveryState::Retrying);
        for last in [None, Some(Outcome::FailedAttempt)] {
            assert_eq!(DeliveryState::of(last, false), DeliveryState::Cancelled);
        }
    }
}
