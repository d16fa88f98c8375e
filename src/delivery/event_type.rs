//! Event types, the patterns that subscriptions name them by, and the one rule of which matches which.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest event type or pattern. Long enough for any reverse-domain name, short enough to index.
pub const MAX_EVENT_TYPE_CHARS: usize = 128;

/// Says what is wrong with an event type or a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not an event type: {expected}")]
pub struct InvalidEventType {
    /// What was given, cut to a printable length.
    pub found: String,
    /// What would have been accepted.
    pub expected: &'static str,
}

/// An event type (`order.created`), or every one with a prefix (`order.*`; `*` alone is every one).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventTypePattern(Arc<str>);

impl EventTypePattern {
    /// Whether an event of this type is meant.
    pub fn matches(&self, event_type: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => event_type.starts_with(prefix),
            None => *self.0 == *event_type,
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventTypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventTypePattern {
    type Err = InvalidEventType;
    fn from_str(text: &str) -> Result<Self, InvalidEventType> {
        match text.strip_suffix('*') {
            Some("") => {}
            Some(prefix) if prefix.ends_with('.') => check_event_type(&prefix[..prefix.len() - 1])?,
            _ => check_event_type(text)?,
        }
        Ok(Self(text.into()))
    }
}

/// Accepts 1 to 128 of `A-Z a-z 0-9 . _ - : /`.
pub fn check_event_type(text: &str) -> Result<(), InvalidEventType> {
    let invalid =
        |expected| Err(InvalidEventType { found: text.chars().take(MAX_EVENT_TYPE_CHARS).collect(), expected });
    if text.is_empty() || text.len() > MAX_EVENT_TYPE_CHARS {
        return invalid("expected 1 to 128 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:/".contains(&b)) {
        return invalid(
            "expected letters, digits and . _ - : / only (a subscription may end in .* for all with that prefix)",
        );
    }
    Ok(())
}

/// Every pattern that matches this event type: itself, `*`, and each of its prefixes with `.*`. A store finds the
/// subscriptions that want an event by looking these up, instead of looking at every subscription.
pub fn matching_patterns(event_type: &str) -> Vec<String> {
    let prefixes = event_type.match_indices('.').map(|(at, _)| format!("{}.*", &event_type[..at]));
    ["*".to_owned(), event_type.to_owned()].into_iter().chain(prefixes).collect()
}

/// Whether a subscription with these patterns wants an event of this type. No patterns means every event, an event
/// without a type included.
pub fn subscribed(patterns: &[EventTypePattern], event_type: Option<&str>) -> bool {
    patterns.is_empty() || event_type.is_some_and(|t| patterns.iter().any(|p| p.matches(t)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> EventTypePattern {
        text.parse().expect("a valid pattern")
    }

    #[test]
    fn a_pattern_without_a_wildcard_matches_itself_only() {
        assert!(pattern("order.created").matches("order.created"));
        assert!(!pattern("order.created").matches("order.created.eu"));
    }

    #[test]
    fn a_trailing_wildcard_matches_below_its_prefix_and_not_the_prefix() {
        assert!(pattern("order.*").matches("order.created.eu"));
        assert!(!pattern("order.*").matches("order"));
        assert!(!pattern("order.*").matches("orders.created"));
        assert!(pattern("*").matches("anything"));
    }

    #[test]
    fn the_patterns_that_match_are_those_that_say_so() {
        for event_type in ["order", "order.created", "order.created.eu", "a..b", "a."] {
            for text in matching_patterns(event_type) {
                // Not every prefix makes a valid pattern; what is none, no subscription can have.
                if let Ok(pattern) = text.parse::<EventTypePattern>() {
                    assert!(pattern.matches(event_type), "{text} and {event_type}");
                }
            }
        }
        assert_eq!(matching_patterns("order.created.eu"), ["*", "order.created.eu", "order.*", "order.created.*"]);
    }

    #[test]
    fn no_patterns_mean_every_event_even_one_without_a_type() {
        assert!(subscribed(&[], None));
        assert!(!subscribed(&[pattern("*")], None));
    }

    #[test]
    fn illegal_characters_lengths_and_inner_wildcards_are_refused() {
        for text in ["", "a b", "a\n", "é", "a*", "*.a", "a.*.b", "**", ".*.*", &"x".repeat(MAX_EVENT_TYPE_CHARS + 1)]
        {
            assert!(text.parse::<EventTypePattern>().is_err(), "{text:?} was accepted");
        }
        assert!("x".repeat(MAX_EVENT_TYPE_CHARS).parse::<EventTypePattern>().is_ok());
    }
}
