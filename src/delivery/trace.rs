//! Trace contexts as W3C Trace Context defines them (`traceparent`, level 1 and 2, and `tracestate`): which trace a delivery
//! belongs to, and who its parent is. Pure: ids are drawn elsewhere.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;
use std::sync::Arc;

/// Most of a `tracestate` that is passed on: as much as everyone has to (3.3.1.5). A longer one is left out as a whole.
pub const MAX_STATE_BYTES: usize = 512;
/// Most entries of a `tracestate` (3.3.1.1).
const MAX_STATE_ENTRIES: usize = 32;
/// Most characters of an entry's key, and of its value (3.3.1.3).
const MAX_KEY_CHARS: usize = 256;
const MAX_VALUE_CHARS: usize = 256;
/// Of version 00; a later version may go on behind it.
const PARENT_CHARS: usize = 55;
/// Whoever sent it records it.
const SAMPLED: u8 = 0x01;
/// Its trace id was drawn at random (level 2).
const RANDOM: u8 = 0x02;

/// A trace's id; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub NonZeroU128);

/// A span's id; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub NonZeroU64);

/// Where something belongs: to which trace, and below which of its spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that caused it.
    pub parent: SpanId,
    /// Those of level 2; others are not passed on.
    flags: u8,
    /// What tracing systems add of their own, as it came.
    state: Option<Arc<str>>,
}

/// It is not what the specification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no trace context")]
pub struct InvalidTrace;

impl TraceContext {
    /// A trace that begins here, and is recorded.
    pub fn new(trace: TraceId, parent: SpanId) -> Self {
        Self { trace, parent, flags: SAMPLED | RANDOM, state: None }
    }

    /// What a request says with these headers. A `traceparent` that is not valid counts as none, and a `tracestate` that is
    /// not valid is left out.
    pub fn of_headers(parent: &str, state: Option<&str>) -> Result<Self, InvalidTrace> {
        let mut context = parse_parent(parent)?;
        context.state = state.filter(|state| is_state(state)).map(Arc::from);
        Ok(context)
    }

    /// The same trace, one span further down.
    pub fn below(&self, parent: SpanId) -> Self {
        Self { parent, ..self.clone() }
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The header `traceparent` for what this span causes.
    pub fn header(&self, span: SpanId) -> String {
        format!("00-{}-{}-{:02x}", self.trace, span, self.flags)
    }

    /// The header `tracestate`, if there is one.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

/// As it is stored: the one header, a space, and the other, if there is one.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.header(self.parent))?;
        self.state().map_or(Ok(()), |state| write!(f, " {state}"))
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTrace;
    fn from_str(text: &str) -> Result<Self, InvalidTrace> {
        match text.split_once(' ') {
            Some((parent, state)) => Self::of_headers(parent, Some(state)),
            None => Self::of_headers(text, None),
        }
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// `00-<trace id>-<parent id>-<flags>`. Of a later version, what it has in common with this one (3.2.4 and 4.3).
fn parse_parent(text: &str) -> Result<TraceContext, InvalidTrace> {
    let head = text.get(..PARENT_CHARS).ok_or(InvalidTrace)?;
    let rest = &text[PARENT_CHARS..];
    let mut parts = head.split('-');
    let mut next = |chars| parts.next().and_then(|part| number(part, chars)).ok_or(InvalidTrace);
    let (version, trace, parent, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    let goes_on = rest.is_empty() || version > 0 && rest.starts_with('-');
    if version == 0xff || !goes_on || parts.next().is_some() {
        return Err(InvalidTrace);
    }
    let trace = NonZeroU128::new(trace).map(TraceId).ok_or(InvalidTrace)?;
    let parent = u64::try_from(parent).ok().and_then(NonZeroU64::new).map(SpanId).ok_or(InvalidTrace)?;
    let flags = u8::try_from(flags).unwrap_or_default() & (SAMPLED | RANDOM);
    Ok(TraceContext { trace, parent, flags, state: None })
}

/// Exactly so many hexadecimal digits, in lower case.
fn number(text: &str, chars: usize) -> Option<u128> {
    let digits = text.len() == chars && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits { u128::from_str_radix(text, 16).ok() } else { None }
}

/// Entries separated by commas, with optional space around them; an empty one is allowed, and no key twice (3.3.1).
fn is_state(text: &str) -> bool {
    let blank = |entry: &str| entry.is_empty();
    let entries: Vec<_> = text.split(',').map(|entry| entry.trim_matches([' ', '\t'])).collect();
    let named: Vec<_> = entries.iter().filter(|entry| !blank(entry)).map(|entry| entry.split_once('=')).collect();
    let unique = |at: usize, key: &str| named[..at].iter().flatten().all(|(before, _)| *before != key);
    (1..=MAX_STATE_BYTES).contains(&text.len())
        && (1..=MAX_STATE_ENTRIES).contains(&named.len())
        && named
            .iter()
            .enumerate()
            .all(|(at, entry)| entry.is_some_and(|(key, value)| is_key(key) && is_value(value) && unique(at, key)))
}

/// `vendor`, or `tenant@vendor`. A digit in front is level 2's.
fn is_key(key: &str) -> bool {
    let begins = |part: &str| part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
    let mut parts = key.splitn(2, '@');
    key.len() <= MAX_KEY_CHARS && parts.all(|part| begins(part) && part.bytes().all(allowed))
}

fn is_value(value: &str) -> bool {
    let allowed = |byte| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    (1..=MAX_VALUE_CHARS).contains(&value.len()) && value.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    fn parent(text: &str) -> Result<TraceContext, InvalidTrace> {
        TraceContext::of_headers(text, None)
    }

    fn state(text: &str) -> Option<String> {
        let context = TraceContext::of_headers(&format!("00-{TRACE}-{PARENT}-01"), Some(text)).unwrap();
        context.state().map(str::to_owned)
    }

    #[test]
    fn a_trace_is_passed_on_under_another_span() {
        let context = parent(&format!("00-{TRACE}-{PARENT}-01")).unwrap();
        assert!(context.is_sampled());
        assert_eq!((context.trace.to_string(), context.parent.to_string()), (TRACE.to_owned(), PARENT.to_owned()));
        let span = SpanId(NonZeroU64::new(0xab).unwrap());
        assert_eq!(context.header(span), format!("00-{TRACE}-00000000000000ab-01"));
        assert_eq!(context.below(span).parent, span);
        assert!(!parent(&format!("00-{TRACE}-{PARENT}-00")).unwrap().is_sampled());
    }

    #[test]
    fn flags_that_nobody_has_defined_are_not_passed_on() {
        let context = parent(&format!("00-{TRACE}-{PARENT}-ff")).unwrap();
        assert_eq!(context.header(context.parent), format!("00-{TRACE}-{PARENT}-03"));
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known_and_answered_in_ours() {
        for rest in ["", "-", "-what comes then"] {
            let context = parent(&format!("01-{TRACE}-{PARENT}-01{rest}")).unwrap();
            assert_eq!(context.header(context.parent), format!("00-{TRACE}-{PARENT}-01"));
        }
        assert!(parent(&format!("01-{TRACE}-{PARENT}-01.")).is_err());
        assert!(parent(&format!("ff-{TRACE}-{PARENT}-01")).is_err());
    }

    #[test]
    fn whatever_is_not_a_traceparent_is_refused() {
        let zero = "0".repeat(32);
        for text in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-1"),
            format!("00-{TRACE}-{PARENT}-01-"),
            format!("00-{TRACE}-{PARENT}-01 "),
            format!(" 00-{TRACE}-{PARENT}-01"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{zero}-{PARENT}-01"),
            format!("00-{TRACE}-{}-01", &zero[..16]),
            format!("00-{TRACE}-{PARENT}-0g"),
            format!("00-{TRACE}-+7ad6b7169203331-01"),
            format!("00_{TRACE}-{PARENT}-01"),
            format!("00-{}é-{PARENT}-01", &TRACE[..30]),
        ] {
            assert_eq!(parent(&text), Err(InvalidTrace), "{text}");
        }
    }

    #[test]
    fn a_tracestate_is_kept_as_it_came_or_not_at_all() {
        for good in ["a=1", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a=1, ,b=2", "t@v=x y", "0a=1", "a*/_-=!"] {
            assert_eq!(state(good).as_deref(), Some(good));
        }
        for bad in ["", ",", "a", "a=", "A=1", "a=1,a=2", "=1", "a=b=c", "é=1", "a=é", "@v=1", "t@=1", "a b=1"] {
            assert_eq!(state(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_tracestate_has_bounds() {
        let longest = |extra| format!("a={},b={}", "x".repeat(256), "x".repeat(MAX_STATE_BYTES - 261 + extra));
        assert_eq!(state(&longest(0)).map(|text| text.len()), Some(MAX_STATE_BYTES));
        assert_eq!(state(&longest(1)), None);
        let entries = |count: usize| (0..count).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        assert!(state(&entries(MAX_STATE_ENTRIES)).is_some());
        assert_eq!(state(&entries(MAX_STATE_ENTRIES + 1)), None);
        assert!(state(&format!("{}=1", "k".repeat(MAX_KEY_CHARS))).is_some());
        assert_eq!(state(&format!("{}=1", "k".repeat(MAX_KEY_CHARS + 1))), None);
        assert_eq!(state(&format!("k={}", "1".repeat(MAX_VALUE_CHARS + 1))), None);
    }

    #[test]
    fn what_is_stored_reads_back() {
        for text in [format!("00-{TRACE}-{PARENT}-01"), format!("00-{TRACE}-{PARENT}-00 a=1, b=x y")] {
            assert_eq!(text.parse::<TraceContext>().unwrap().to_string(), text);
        }
    }
}
