//! Reads what a body says about how a subscription is delivered to: every field of [`Settings`], flat beside the others.
//! Null is the default. Of a header only the name is ever quoted: its value may be a credential.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::problem::{FieldError, quoted, shortened};
use super::subscription_body::{kind_of, whole_number};
use crate::delivery::{BreakerSettings, Order, RateLimit, Settings};
use crate::outbound::options::{OptionRefused, RequestOptions};

/// More are no more use to a receiver: it sees the connections of all nodes.
const MAX_CONCURRENCY: RangeInclusive<u64> = 1..=256;
/// Beyond the longest attempt it would mean nothing.
const LATENCY_TARGET_MS: RangeInclusive<u64> = 1..=60_000;
/// More than a node delivers is no limit.
const PER_SECOND: RangeInclusive<u64> = 1..=100_000;
/// Waits between attempts: 32 of them, of a week at most.
const MAX_WAITS: usize = 32;
const WAIT_S: RangeInclusive<u64> = 0..=7 * 24 * 3600;
/// Less is noise of the network; more holds a place in the window for too long.
const ATTEMPT_TIMEOUT_MS: RangeInclusive<u64> = 100..=60_000;
/// At the upper end it is what the disk holds.
const MAX_BACKLOG: RangeInclusive<u64> = 1..=100_000_000;
/// A minute to a year.
const DISABLE_AFTER_S: RangeInclusive<u64> = 60..=365 * 24 * 3600;
const CONSECUTIVE_FAILURES: RangeInclusive<u64> = 1..=1000;
const FAILURE_RATE_PERCENT: RangeInclusive<u64> = 1..=100;
/// Up to five minutes: it doubles from there.
const BREAKER_WAIT_MS: RangeInclusive<u64> = 100..=300_000;

/// All fields of this file, as a body names them.
pub(super) const FIELDS: &str = "max_concurrency, latency_target_ms, rate_limit, retry_schedule_s, attempt_timeout_ms, \
                                 order, max_backlog, disable_after_s, breaker, method, headers";

type Read<T> = Result<T, Vec<FieldError>>;

/// What a body says of the settings, checked. An outer `None` is a field that is absent, an inner one the default.
#[derive(Clone, Debug, Default)]
pub(super) struct SettingsBody {
    max_concurrency: Option<Option<u32>>,
    latency_target_ms: Option<Option<u64>>,
    rate_limit: Option<Option<RateLimit>>,
    retry_schedule_s: Option<Option<Vec<u64>>>,
    attempt_timeout_ms: Option<Option<u64>>,
    order: Option<Option<Order>>,
    max_backlog: Option<Option<u64>>,
    disable_after_s: Option<Option<u64>>,
    breaker: Option<Option<BreakerSettings>>,
    method: Option<Option<String>>,
    headers: Option<BTreeMap<String, String>>,
}

impl SettingsBody {
    /// Takes the field, if it is one of these; `false` if it is another.
    pub fn take(&mut self, name: &str, value: &Value, errors: &mut Vec<FieldError>) -> bool {
        match name {
            "max_concurrency" => self.max_concurrency = kept(small(name, value, MAX_CONCURRENCY), errors),
            "latency_target_ms" => self.latency_target_ms = kept(number(name, value, LATENCY_TARGET_MS), errors),
            "rate_limit" => self.rate_limit = kept(rate_limit(value), errors),
            "retry_schedule_s" => self.retry_schedule_s = kept(retry_schedule(value), errors),
            "attempt_timeout_ms" => self.attempt_timeout_ms = kept(number(name, value, ATTEMPT_TIMEOUT_MS), errors),
            "order" => self.order = kept(order(value), errors),
            "max_backlog" => self.max_backlog = kept(number(name, value, MAX_BACKLOG), errors),
            "disable_after_s" => self.disable_after_s = kept(number(name, value, DISABLE_AFTER_S), errors),
            "breaker" => self.breaker = kept(breaker(value), errors),
            "method" => self.method = kept(method(value), errors),
            "headers" => self.headers = kept(headers(value), errors),
            _ => return false,
        }
        true
    }

    /// The settings with what was named in place of what was there.
    pub fn over(self, current: &Settings) -> Settings {
        let current = current.clone();
        Settings {
            max_concurrency: self.max_concurrency.unwrap_or(current.max_concurrency),
            latency_target_ms: self.latency_target_ms.unwrap_or(current.latency_target_ms),
            rate_limit: self.rate_limit.unwrap_or(current.rate_limit),
            retry_schedule_s: self.retry_schedule_s.unwrap_or(current.retry_schedule_s),
            attempt_timeout_ms: self.attempt_timeout_ms.unwrap_or(current.attempt_timeout_ms),
            order: self.order.unwrap_or(current.order),
            max_backlog: self.max_backlog.unwrap_or(current.max_backlog),
            disable_after_s: self.disable_after_s.unwrap_or(current.disable_after_s),
            breaker: self.breaker.unwrap_or(current.breaker),
            method: self.method.unwrap_or(current.method),
            headers: self.headers.unwrap_or(current.headers),
        }
    }
}

fn kept<T>(read: Read<T>, errors: &mut Vec<FieldError>) -> Option<T> {
    read.map_err(|found| errors.extend(found)).ok()
}

fn wrong<T>(field: &str, found: impl Into<String>, expected: impl Into<String>) -> Read<T> {
    Err(vec![FieldError::new(field.to_owned(), found, expected.into())])
}

/// A value that is no secret, as it is quoted back.
fn found(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        other => kind_of(other),
    }
}

fn number(field: &str, value: &Value, allowed: RangeInclusive<u64>) -> Read<Option<u64>> {
    if value.is_null() {
        return Ok(None);
    }
    integer(field, value, allowed, ", or null for the default").map(Some)
}

fn integer(field: &str, value: &Value, allowed: RangeInclusive<u64>, or: &str) -> Read<u64> {
    match whole_number(value).filter(|number| allowed.contains(number)) {
        Some(number) => Ok(number),
        None => wrong(field, found(value), format!("a whole number from {} to {}{or}", allowed.start(), allowed.end())),
    }
}

/// As [`number`], where the range fits.
fn small(field: &str, value: &Value, allowed: RangeInclusive<u64>) -> Read<Option<u32>> {
    Ok(number(field, value, allowed)?.and_then(|number| u32::try_from(number).ok()))
}

fn rate_limit(value: &Value) -> Read<Option<RateLimit>> {
    const EXPECTED: &str = "an object like {\"per_second\": 10, \"burst\": 5}, or null for no limit";
    let Some(members) = object("rate_limit", value, EXPECTED)? else { return Ok(None) };
    let mut errors = unknown("rate_limit", members, &["per_second", "burst"]);
    let per_second = members.get("per_second").unwrap_or(&Value::Null);
    let per_second = kept(integer("rate_limit.per_second", per_second, PER_SECOND, ""), &mut errors);
    let burst = members.get("burst").unwrap_or(&Value::Null);
    let burst = kept(small("rate_limit.burst", burst, PER_SECOND), &mut errors);
    match (per_second.and_then(|number| u32::try_from(number).ok()), burst) {
        (Some(per_second), Some(burst)) if errors.is_empty() => Ok(Some(RateLimit { per_second, burst })),
        _ => Err(errors),
    }
}

fn breaker(value: &Value) -> Read<Option<BreakerSettings>> {
    const EXPECTED: &str = "an object like {\"consecutive_failures\": 10}, or null for the default";
    let Some(members) = object("breaker", value, EXPECTED)? else { return Ok(None) };
    let mut errors = unknown("breaker", members, &["consecutive_failures", "failure_rate_percent", "wait_ms"]);
    let of = |name: &str| members.get(name).unwrap_or(&Value::Null);
    let failures = small("breaker.consecutive_failures", of("consecutive_failures"), CONSECUTIVE_FAILURES);
    let rate = small("breaker.failure_rate_percent", of("failure_rate_percent"), FAILURE_RATE_PERCENT);
    let wait = number("breaker.wait_ms", of("wait_ms"), BREAKER_WAIT_MS);
    let read = (kept(failures, &mut errors), kept(rate, &mut errors), kept(wait, &mut errors));
    match read {
        (Some(consecutive_failures), Some(failure_rate_percent), Some(wait_ms)) if errors.is_empty() => {
            Ok(Some(BreakerSettings { consecutive_failures, failure_rate_percent, wait_ms }))
        }
        _ => Err(errors),
    }
}

fn object<'a>(field: &str, value: &'a Value, expected: &str) -> Read<Option<&'a Map<String, Value>>> {
    match value {
        Value::Null => Ok(None),
        Value::Object(members) => Ok(Some(members)),
        other => wrong(field, found(other), expected),
    }
}

fn unknown(field: &str, members: &Map<String, Value>, known: &[&str]) -> Vec<FieldError> {
    let unknown = members.keys().filter(|name| !known.contains(&name.as_str()));
    let expected = format!("one of {}", known.join(", "));
    unknown
        .map(|name| {
            let field = format!("{field}.{}", shortened(name));
            FieldError::new(field, "a field that does not exist", expected.clone())
        })
        .collect()
}

fn retry_schedule(value: &Value) -> Read<Option<Vec<u64>>> {
    const FIELD: &str = "retry_schedule_s";
    let waits = match value {
        Value::Null => return Ok(None),
        Value::Array(waits) if waits.len() <= MAX_WAITS => waits,
        Value::Array(waits) => return wrong(FIELD, format!("{} waits", waits.len()), format!("at most {MAX_WAITS}")),
        other => return wrong(FIELD, found(other), "an array of seconds like [10, 60, 300], or null for the default"),
    };
    let (mut schedule, mut errors) = (Vec::with_capacity(waits.len()), Vec::new());
    for (position, wait) in waits.iter().enumerate() {
        schedule.extend(kept(integer(&format!("{FIELD}[{position}]"), wait, WAIT_S, ""), &mut errors));
    }
    if errors.is_empty() { Ok(Some(schedule)) } else { Err(errors) }
}

fn order(value: &Value) -> Read<Option<Order>> {
    match value.as_str() {
        None if value.is_null() => Ok(None),
        Some("unordered") => Ok(Some(Order::Unordered)),
        Some("fifo") => Ok(Some(Order::Fifo)),
        Some("ordering_key") => Ok(Some(Order::OrderingKey)),
        _ => wrong("order", found(value), "\"unordered\", \"fifo\", \"ordering_key\", or null for the default"),
    }
}

fn method(value: &Value) -> Read<Option<String>> {
    let Value::String(method) = value else {
        let expected = "\"POST\", \"PUT\" or \"PATCH\", or null for the default";
        return if value.is_null() { Ok(None) } else { wrong("method", found(value), expected) };
    };
    match RequestOptions::new(Some(method), &BTreeMap::new()) {
        Ok(_) => Ok(Some(method.clone())),
        Err(errors) => Err(errors.into_iter().map(field_error).collect()),
    }
}

fn field_error((field, found, expected): OptionRefused) -> FieldError {
    FieldError::new(field, found, expected)
}

fn headers(value: &Value) -> Read<BTreeMap<String, String>> {
    let expected = "an object of strings like {\"X-Team\": \"billing\"}, or null for none";
    // Not even a piece of what should have been an object is shown.
    let members = match value {
        Value::Null => return Ok(BTreeMap::new()),
        Value::Object(members) => members,
        other => return wrong("headers", kind_of(other), expected),
    };
    let (mut headers, mut errors) = (BTreeMap::new(), Vec::new());
    for (name, value) in members {
        let field = || format!("headers.{}", shortened(name));
        let Value::String(text) = value else {
            errors.push(FieldError::new(field(), kind_of(value), "a string"));
            continue;
        };
        if headers.insert(name.to_ascii_lowercase(), text.clone()).is_some() {
            errors.push(FieldError::new(field(), "the header twice", "each header once, in whatever case"));
        }
    }
    errors.extend(RequestOptions::new(None, &headers).err().into_iter().flatten().map(field_error));
    if errors.is_empty() { Ok(headers) } else { Err(errors) }
}

#[cfg(test)]
#[path = "settings_body_tests.rs"]
mod tests;
