use serde_json::json;

use super::*;
use crate::outbound::options::{MAX_HEADER_BYTES, MAX_HEADERS};

fn read(body: &Value) -> Result<SettingsBody, Vec<FieldError>> {
    let (mut settings, mut errors) = (SettingsBody::default(), Vec::new());
    for (name, value) in body.as_object().unwrap() {
        assert!(settings.take(name, value, &mut errors), "{name}");
    }
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

fn settings(body: &Value) -> Settings {
    read(body).unwrap().over(&Settings::default())
}

fn is_refused(field: &str, value: Value) -> bool {
    read(&json!({ field: value })).is_err_and(|errors| errors.iter().all(|error| error.field.starts_with(field)))
}

fn everything() -> Value {
    json!({
        "max_concurrency": 4,
        "latency_target_ms": 250,
        "rate_limit": {"per_second": 10, "burst": 3},
        "retry_schedule_s": [0, 10, 60],
        "attempt_timeout_ms": 2000,
        "order": "ordering_key",
        "max_backlog": 5000,
        "disable_after_s": 3600,
        "breaker": {"consecutive_failures": 5, "failure_rate_percent": 20, "wait_ms": 1000},
        "method": "PUT",
        "headers": {"authorization": "Bearer hunter2"},
    })
}

#[test]
fn a_body_says_what_is_stored() {
    assert_eq!(json!(settings(&everything())), everything());
    for name in everything().as_object().unwrap().keys() {
        assert!(FIELDS.contains(name.as_str()), "{name}");
    }
    assert!(!SettingsBody::default().take("colour", &json!(1), &mut Vec::new()));
}

#[test]
fn null_is_the_default() {
    let all_null: Map<_, _> =
        everything().as_object().unwrap().keys().map(|name| (name.clone(), json!(null))).collect();
    let current = settings(&everything());
    assert_eq!(read(&Value::Object(all_null)).unwrap().over(&current), Settings::default());
    let breaker = json!({"breaker": {"wait_ms": null}, "rate_limit": {"per_second": 1, "burst": null}});
    let partly = settings(&breaker);
    assert_eq!(partly.breaker, Some(BreakerSettings::default()));
    assert_eq!(partly.rate_limit, Some(RateLimit { per_second: 1, burst: None }));
}

#[test]
fn what_is_not_named_stays() {
    let current = settings(&everything());
    assert_eq!(SettingsBody::default().over(&current), current);
    for (name, value) in [("max_concurrency", json!(9)), ("headers", json!({"x-a": "1"})), ("order", json!(null))] {
        let changed = json!(read(&json!({ name: value })).unwrap().over(&current));
        let mut expected = everything();
        match value {
            Value::Null => drop(expected.as_object_mut().unwrap().remove(name)),
            value => expected[name] = value,
        }
        assert_eq!(changed, expected, "{name}");
    }
}

#[test]
fn numbers_hold_to_their_limits_at_both_edges() {
    for (field, low, high) in [
        ("max_concurrency", 1, 256_u64),
        ("latency_target_ms", 1, 60_000),
        ("attempt_timeout_ms", 100, 60_000),
        ("max_backlog", 1, 100_000_000),
        ("disable_after_s", 60, 31_536_000),
    ] {
        assert!(read(&json!({ field: low })).is_ok() && read(&json!({ field: high })).is_ok(), "{field}");
        let with_point: Value = serde_json::from_str(&format!("{low}.0")).expect("JSON");
        assert_eq!(settings(&json!({ field: with_point })), settings(&json!({ field: low })), "{field}");
        for wrong in [json!(low - 1), json!(high + 1), json!(-1), json!(1.5), json!("4"), json!([4]), json!(true)] {
            assert!(is_refused(field, wrong.clone()), "{field}: {wrong}");
        }
    }
    for (object, field, low, high) in [
        ("rate_limit", "per_second", 1, 100_000_u64),
        ("rate_limit", "burst", 1, 100_000),
        ("breaker", "consecutive_failures", 1, 1000),
        ("breaker", "failure_rate_percent", 1, 100),
        ("breaker", "wait_ms", 100, 300_000),
    ] {
        let with = |number: u64| {
            let mut members = if object == "rate_limit" { json!({"per_second": 1}) } else { json!({}) };
            members[field] = json!(number);
            read(&json!({ object: members }))
        };
        assert!(with(low).is_ok() && with(high).is_ok(), "{object}.{field}");
        for wrong in [low - 1, high + 1] {
            let errors = with(wrong).unwrap_err();
            assert_eq!(errors[0].field, format!("{object}.{field}"));
            assert_eq!(errors[0].found, wrong.to_string());
        }
    }
}

#[test]
fn a_schedule_has_a_limit_and_its_waits_are_named_by_their_place() {
    let waits = |count: usize| json!(vec![604_800; count]);
    assert!(
        read(&json!({ "retry_schedule_s": waits(0) })).is_ok()
            && read(&json!({ "retry_schedule_s": waits(32) })).is_ok()
    );
    assert!(is_refused("retry_schedule_s", waits(33)) && is_refused("retry_schedule_s", json!("10s,30s")));
    let errors = read(&json!({ "retry_schedule_s": [1, 604_801, "x"] })).unwrap_err();
    let fields: Vec<_> = errors.iter().map(|error| &*error.field).collect();
    assert_eq!(fields, ["retry_schedule_s[1]", "retry_schedule_s[2]"]);
}

#[test]
fn words_and_members_that_do_not_exist_are_named_with_those_that_do() {
    for (field, value, expected) in [
        ("order", json!("lifo"), "fifo"),
        ("method", json!("GET"), "PATCH"),
        ("method", json!("post"), "POST"),
        ("method", json!(1), "POST"),
        ("rate_limit", json!(10), "per_second"),
        ("rate_limit", json!({"burst": 1}), "from 1 to 100000"),
        ("rate_limit", json!({"per_second": 1, "per_minute": 1}), "per_second, burst"),
        ("breaker", json!({"failures": 1}), "consecutive_failures"),
        ("breaker", json!([]), "consecutive_failures"),
    ] {
        let errors = read(&json!({ field: value })).unwrap_err();
        assert!(errors.iter().any(|error| error.expected.contains(expected)), "{errors:?}");
    }
}

#[test]
fn every_wrong_member_is_named_at_once() {
    let body = json!({
        "breaker": {"wait_ms": 1, "failure_rate_percent": 101, "x": 1},
        "headers": {"host": "a", "x y": "b", "ok": 1},
        "max_concurrency": 0,
    });
    let fields: Vec<_> = read(&body).unwrap_err().into_iter().map(|error| error.field).collect();
    for field in [
        "breaker.wait_ms",
        "breaker.failure_rate_percent",
        "breaker.x",
        "headers.host",
        "headers.x y",
        "headers.ok",
        "max_concurrency",
    ] {
        assert!(fields.iter().any(|found| found == field), "{field} in {fields:?}");
    }
}

#[test]
fn headers_are_kept_in_lower_case_and_hold_to_their_limits() {
    assert_eq!(json!(settings(&json!({"headers": {"X-Team": "a"}})))["headers"], json!({"x-team": "a"}));
    let many = |count: usize| (0..count).map(|n| (format!("x-{n}"), json!("v"))).collect::<Map<_, _>>();
    assert!(read(&json!({ "headers": many(MAX_HEADERS) })).is_ok());
    assert!(is_refused("headers", Value::Object(many(MAX_HEADERS + 1))));
    for (name, value, taken) in [
        ("x-a", "v".repeat(MAX_HEADER_BYTES - 3), true),
        ("x-a", "v".repeat(MAX_HEADER_BYTES - 2), false),
        ("x-a", "a\r\nHost: b".to_owned(), false),
        ("x-a", "é".to_owned(), false),
        ("", "v".to_owned(), false),
        ("x:a", "v".to_owned(), false),
        ("Webhook-Id", "v".to_owned(), false),
        ("X-Hub-Signature-256", "v".to_owned(), false),
        ("Transfer-Encoding", "chunked".to_owned(), false),
        ("Authorization", "Basic eA==".to_owned(), true),
    ] {
        assert_eq!(read(&json!({ "headers": { name: value } })).is_ok(), taken, "{name}: {value}");
    }
    assert!(is_refused("headers", json!({"X-A": "1", "x-a": "2"})));
}

#[test]
fn no_value_of_a_header_is_shown() {
    for headers in [
        json!("authorization: hunter2"),
        json!(["hunter2"]),
        json!({"host": "hunter2"}),
        json!({"authorization": "hunter2\n"}),
        json!({"authorization": ["hunter2"]}),
        json!({"x y": "hunter2"}),
        json!({"A": "hunter2", "a": "hunter2"}),
    ] {
        let errors = read(&json!({ "headers": headers })).unwrap_err();
        assert!(!format!("{errors:?}").contains("hunter2"), "{errors:?}");
    }
}
