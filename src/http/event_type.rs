//! Which event types a producer may send, wherever a request names one.

use crate::delivery::{OWN_EVENTS, check_event_type};

const RESERVED: &str = "a type that does not begin with hookpost.: those are reserved for Hookpost's own events";

/// Says what is expected instead of a type that no producer may send.
pub(super) fn check(name: &str) -> Result<(), &'static str> {
    check_event_type(name).map_err(|invalid| invalid.expected)?;
    if name.starts_with(OWN_EVENTS) { Err(RESERVED) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hookposts_own_events_are_nobody_elses_to_send() {
        for name in ["hookpost.subscription.disabled", "hookpost."] {
            assert_eq!(check(name), Err(RESERVED), "{name}");
        }
        assert!(RESERVED.contains(OWN_EVENTS));
        for name in ["order.created", "hookpost", "hookposts.x", "Hookpost.x"] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        assert!(check("a b").is_err());
    }
}
