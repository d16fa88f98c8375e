//! When a request came, and which trace its sender says that it belongs to (W3C Trace Context). What is not valid there
//! counts as not sent, as the specification has it: nobody is refused for it.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::time::Instant;
use warp::http::HeaderMap;

use crate::actors::Arrival;
use crate::delivery::{MAX_STATE_BYTES, TraceContext};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Of a request with these headers, as of now.
pub(super) fn of(headers: &HeaderMap) -> Arrival {
    Arrival { at: Instant::now(), trace: trace(headers).map(Arc::new) }
}

fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all(PARENT).iter();
    // Of two nobody knows which is right.
    let (parent, None) = (parents.next()?, parents.next()) else { return None };
    TraceContext::of_headers(parent.to_str().ok()?, state(headers).as_deref()).ok()
}

/// Several of them are one list (3.3.1). One that is too long is not put together.
fn state(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let mut whole: Option<Cow<'_, str>> = None;
    for value in headers.get_all(STATE) {
        let value = value.to_str().ok()?;
        let joined = match whole {
            None => Cow::Borrowed(value),
            Some(before) => Cow::Owned(format!("{before},{value}")),
        };
        if joined.len() > MAX_STATE_BYTES {
            return None;
        }
        whole = Some(joined);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT_VALUE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn kept(named: &[(&'static str, &'static str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in named {
            headers.append(*name, value.parse().unwrap());
        }
        of(&headers).trace.map(|trace| trace.to_string())
    }

    #[test]
    fn a_request_belongs_to_the_trace_that_it_names() {
        assert_eq!(kept(&[(PARENT, PARENT_VALUE)]).as_deref(), Some(PARENT_VALUE));
        let both = [(PARENT, PARENT_VALUE), (STATE, "a=1"), (STATE, "b=2")];
        assert_eq!(kept(&both), Some(format!("{PARENT_VALUE} a=1,b=2")), "two of them are one list");
    }

    #[test]
    fn one_that_names_none_or_two_or_a_wrong_one_belongs_to_none() {
        assert_eq!(kept(&[]), None);
        assert_eq!(kept(&[(STATE, "a=1")]), None);
        assert_eq!(kept(&[(PARENT, PARENT_VALUE), (PARENT, PARENT_VALUE)]), None);
        assert_eq!(kept(&[(PARENT, "00-1-2-3")]), None);
    }

    #[test]
    fn a_tracestate_that_is_wrong_costs_only_itself() {
        let long: &'static str = format!("a={}", "x".repeat(256)).leak();
        for states in [vec!["é"], vec!["a"], vec!["a=1", "a=2"], vec![long, "b=1", long]] {
            let mut headers = vec![(PARENT, PARENT_VALUE)];
            headers.extend(states.iter().map(|state| (STATE, *state)));
            assert_eq!(kept(&headers).as_deref(), Some(PARENT_VALUE), "{states:?}");
        }
    }
}
