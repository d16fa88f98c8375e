//! Bodies of `POST /events`, the good and the bad.

use serde_json::{Value, json};

use super::*;

fn new_event(body: &[u8]) -> Result<NewEvent, Problem> {
    super::new_event(body, &Caller::anonymous())
}

fn read(body: &Value) -> Result<NewEvent, Problem> {
    new_event(body.to_string().as_bytes())
}

/// The problem's text for a body with one field replaced.
fn refusal(field: &str, value: Value) -> String {
    let mut body = json!({"event_type": "order.created", "payload": {}});
    body[field] = value;
    let problem = read(&body).expect_err(field);
    assert_eq!(problem.kind(), Kind::InvalidField);
    let said = format!("{problem:?}");
    assert!(said.contains(field), "{said}");
    said
}

/// The payload that a body with this text in its place comes to.
fn payload_of(json: &str) -> Result<Bytes, Problem> {
    new_event(format!("{{\"event_type\":\"a\",\"payload\":{json}}}").as_bytes()).map(|event| event.payload)
}

#[test]
fn all_fields_are_read() {
    let body = json!({"event_type": "order.created", "payload": [1], "tenant": "acme", "ordering_key": "order 7 é"});
    let event = read(&body).unwrap();
    assert_eq!((&*event.event_type, &*event.tenant), ("order.created", "acme"));
    assert_eq!((event.ordering_key.as_deref(), &event.payload[..]), (Some("order 7 é"), &b"[1]"[..]));
}

#[test]
fn only_the_event_type_and_the_payload_are_required() {
    for body in
        [json!({"event_type": "a", "payload": null}), json!({"event_type": "a", "payload": null, "ordering_key": null})]
    {
        let event = read(&body).unwrap();
        assert_eq!((&*event.tenant, event.ordering_key, &event.payload[..]), ("default", None, &b"null"[..]));
    }
    let said = format!("{:?}", read(&json!({})).unwrap_err());
    assert!(said.contains("event_type") && said.contains("payload") && said.contains("nothing"), "{said}");
}

#[test]
fn the_payload_is_taken_byte_for_byte() {
    for json in [
        "{ \"b\" : 1 ,\n\t\"a\":\r2 }",
        "1e400",
        "-0.0",
        "123456789012345678901234567890.50",
        r#"{"a":1,"a":2}"#,
        r#""\ud800\u0041\/""#,
        r#"["}", "\"{", "é\u00e9"]"#,
        "[ ]",
        "true",
    ] {
        assert_eq!(payload_of(json).unwrap(), json.as_bytes(), "{json}");
    }
}

#[test]
fn the_spaces_around_the_payload_are_not_part_of_it() {
    assert_eq!(payload_of(" \n {\"a\": 1}\t ").unwrap(), "{\"a\": 1}");
}

#[test]
fn the_fields_may_come_in_any_order_and_with_escapes() {
    let body = br#" { "payload" : {"payload":2} , "\u0065vent_type" : "order\u002ecreated" } "#;
    let event = new_event(body).unwrap();
    assert_eq!((&*event.event_type, &event.payload[..]), ("order.created", &br#"{"payload":2}"#[..]));
}

#[test]
fn the_payload_is_nested_up_to_its_limit_whatever_is_around_it() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(payload_of(&nested(MAX_DEPTH)).is_ok());
    for levels in [MAX_DEPTH + 1, 100_000] {
        let problem = payload_of(&nested(levels)).unwrap_err();
        assert_eq!(problem.kind(), Kind::InvalidField);
        assert!(format!("{problem:?}").contains("nested at most 128"), "{problem:?}");
    }
    let hidden = format!("{{\"event_type\":{}}}", nested(100_000));
    assert_eq!(new_event(hidden.as_bytes()).unwrap_err().kind(), Kind::InvalidField);
}

#[test]
fn what_is_no_json_is_refused_without_its_content() {
    for body in ["", "{", "nul", "{\"payload\":hunter2}", "{\"payload\":1,}", "{} x", "{1:2}", "{\"\\ud800\":1}"] {
        let problem = new_event(body.as_bytes()).expect_err(body);
        assert_eq!(problem.kind(), Kind::InvalidJson, "{body}");
        assert!(!format!("{problem:?}").contains("hunter2"), "{problem:?}");
    }
    assert_eq!(new_event(b"{\"payload\":\"\xff\"}").unwrap_err().kind(), Kind::InvalidJson);
}

#[test]
fn what_is_no_object_is_refused_with_what_it_is() {
    for (body, kind) in [("[]", "an array"), ("7", "a number"), (" \"a\"", "a string"), ("null", "null")] {
        let problem = new_event(body.as_bytes()).expect_err(body);
        assert_eq!(problem.kind(), Kind::InvalidField);
        assert!(format!("{problem:?}").contains(kind), "{problem:?}");
    }
}

#[test]
fn wrong_fields_are_named_with_what_was_found_and_expected() {
    assert!(refusal("event_type", json!(7)).contains("a number"));
    assert!(refusal("event_type", json!(null)).contains("null"));
    assert!(refusal("event_type", json!("order.*")).contains("order.*"));
    assert!(refusal("tenant", json!("a/b")).contains("a/b"));
    assert!(refusal("tenant", json!(null)).contains("1 to 64"));
    assert!(refusal("ordering_key", json!({})).contains("an object"));
    assert!(refusal("ordering_key", json!("a\nb")).contains("printable"));
    assert!(refusal("colour", json!("hunter2")).contains("one of event_type"));
    assert!(!refusal("colour", json!("hunter2")).contains("hunter2"));
    let half = new_event(br#"{"event_type":"\ud800","payload":1}"#).unwrap_err();
    assert!(format!("{half:?}").contains("an escape that is no character"), "{half:?}");
}

#[test]
fn every_wrong_field_is_named_at_once() {
    let problem = read(&json!({"event_type": 1, "tenant": 2, "ordering_key": 3, "colour": 4})).unwrap_err();
    let said = format!("{problem:?}");
    let fields = ["event_type", "payload", "tenant", "ordering_key", "colour"];
    assert!(fields.iter().all(|field| said.contains(field)), "{said}");
}

#[test]
fn a_field_that_comes_twice_is_refused() {
    let twice = new_event(br#"{"event_type":"a","payload":1,"payload":1}"#).unwrap_err();
    assert!(format!("{twice:?}").contains("each field once"), "{twice:?}");
}

#[test]
fn limits_hold_at_their_edges() {
    let with = |field: &str, value: String| {
        let mut body = json!({"event_type": "a", "payload": 1});
        body[field] = json!(value);
        read(&body).is_ok()
    };
    assert!(with("ordering_key", "é".repeat(MAX_ORDERING_KEY_CHARS)));
    assert!(!with("ordering_key", "é".repeat(MAX_ORDERING_KEY_CHARS + 1)) && !with("ordering_key", String::new()));
    assert!(with("event_type", "x".repeat(128)) && !with("event_type", "x".repeat(129)));
    assert!(with("tenant", "x".repeat(64)) && !with("tenant", "x".repeat(65)));
}
