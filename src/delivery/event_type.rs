//! Event types, the patterns that subscriptions name them by, and the one rule of which matches which.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::OWN_EVENTS;

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

/// An event type (`order.created`), or every one with a prefix (`order.*`; `*` alone is every one but Hookpost's own).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventTypePattern(Arc<str>);

impl EventTypePattern {
    /// Whether an event of this type is meant.
    pub fn matches(&self, event_type: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some("") => !is_own(event_type),
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
        return invalid("1 to 128 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:/".contains(&b)) {
        return invalid("letters, digits and . _ - : / only (a subscription may end in .* for all with that prefix)");
    }
    Ok(())
}

/// Stands in the stores for the patterns of a subscription that has none. Nobody can write it.
pub const NO_PATTERNS: &str = "";

/// Whether the event is Hookpost's own. Only a pattern that begins like it matches it: whoever asked for everything did so
/// before there were such events, or without thinking of them.
fn is_own(event_type: &str) -> bool {
    event_type.starts_with(OWN_EVENTS)
}

/// Every pattern that matches this event type: itself, each of its prefixes with `.*`, `*`, and [`NO_PATTERNS`]. A store
/// finds the subscriptions that want an event by looking these up, instead of looking at every subscription.
pub fn matching_patterns(event_type: &str) -> Vec<String> {
    let mut patterns = vec![event_type.to_owned()];
    patterns.extend(event_type.match_indices('.').map(|(at, _)| format!("{}.*", &event_type[..at])));
    if !is_own(event_type) {
        patterns.extend(["*", NO_PATTERNS].map(str::to_owned));
    }
    patterns
}

/// Whether a subscription with these patterns wants an event of this type. No patterns means every event but Hookpost's
/// own, an event without a type included.
pub fn subscribed(patterns: &[EventTypePattern], event_type: Option<&str>) -> bool {
    match event_type {
        None => patterns.is_empty(),
        Some(event_type) if patterns.is_empty() => !is_own(event_type),
        Some(event_type) => patterns.iter().any(|pattern| pattern.matches(event_type)),
    }
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
        let patterns = matching_patterns("order.created.eu");
        assert_eq!(patterns, ["order.created.eu", "order.*", "order.created.*", "*", NO_PATTERNS]);
    }

    #[test]
    fn hookposts_own_events_go_to_those_who_name_them() {
        let own = "hookpost.subscription.disabled";
        assert_eq!(matching_patterns(own), [own, "hookpost.*", "hookpost.subscription.*"]);
        for named in [own, "hookpost.*", "hookpost.subscription.*"] {
            assert!(subscribed(&[pattern("order.*"), pattern(named)], Some(own)), "{named}");
        }
        assert!(!subscribed(&[], Some(own)));
        assert!(!subscribed(&[pattern("*")], Some(own)));
        assert!(subscribed(&[pattern("*")], Some("hookposts.disabled")));
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
