//! Reads the body of `POST /events`, and says all that is wrong with it at once. The payload is taken as it stands there,
//! byte for byte: it is what receivers get and what their signatures are over.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{self, MAX_DEPTH, kind_of};
use super::problem::{FieldError, Kind, Problem, quoted, shortened};
use super::{event_type, tenant};
use crate::access::Caller;
use crate::actors::NewEvent;

/// Room for any id, short enough for an index.
const MAX_ORDERING_KEY_CHARS: usize = 256;

const BODY_EXPECTED: &str = "an object like {\"event_type\": \"order.created\", \"payload\": {\"order_id\": 123}}";
const FIELDS: &str = "one of event_type, payload, tenant, ordering_key";
const EVENT_TYPE_EXPECTED: &str = "a string like \"order.created\"";
const PAYLOAD_EXPECTED: &str = "any JSON value, nested at most 128 levels deep";
const ORDERING_KEY_EXPECTED: &str = "a string of 1 to 256 printable characters, or null for none";

/// An event that the caller publishes.
pub(super) fn new_event(body: &[u8], caller: &Caller) -> Result<NewEvent, Problem> {
    let (fields, mut errors) = fields(body)?;
    let event_type = kept(event_type(fields.event_type), &mut errors);
    let payload = kept(payload(fields.payload), &mut errors);
    let tenant = kept(tenant(fields.tenant, caller), &mut errors);
    let ordering_key = kept(ordering_key(fields.ordering_key), &mut errors);
    match (event_type, payload, tenant, ordering_key) {
        (Some(event_type), Some(payload), Some(tenant), Some(ordering_key)) if errors.is_empty() => {
            Ok(NewEvent { tenant, event_type, ordering_key, payload })
        }
        _ => Err(Problem::with_errors(Kind::InvalidField, errors)),
    }
}

fn kept<T>(read: Result<T, FieldError>, errors: &mut Vec<FieldError>) -> Option<T> {
    read.map_err(|error| errors.push(error)).ok()
}

/// The values of the fields, each as it stands in the body.
#[derive(Default)]
struct Fields<'a> {
    event_type: Option<&'a str>,
    payload: Option<&'a str>,
    tenant: Option<&'a str>,
    ordering_key: Option<&'a str>,
}

fn fields(body: &[u8]) -> Result<(Fields<'_>, Vec<FieldError>), Problem> {
    let (mut fields, mut errors) = (Fields::default(), Vec::new());
    for (name, value) in members(body)? {
        let field = match &*name {
            "event_type" => &mut fields.event_type,
            "payload" => &mut fields.payload,
            "tenant" => &mut fields.tenant,
            "ordering_key" => &mut fields.ordering_key,
            _ => {
                errors.push(FieldError::new(shortened(&name), "a field that does not exist", FIELDS));
                continue;
            }
        };
        // Readers of JSON disagree on which of two counts, so neither does.
        if field.replace(value).is_some() {
            errors.push(FieldError::new(name, "the field twice", "each field once"));
        }
    }
    Ok((fields, errors))
}

fn members(body: &[u8]) -> Result<Vec<(String, &str)>, Problem> {
    let not_json = |why: String| Problem::new(Kind::InvalidJson, why);
    let text = json::text(body).map_err(not_json)?;
    match serde_json::from_str::<Members<'_>>(text) {
        Ok(Members(members)) => Ok(members),
        Err(error) if error.is_data() => {
            let error = FieldError::new("body", kind_of(text), BODY_EXPECTED);
            Err(Problem::with_errors(Kind::InvalidField, vec![error]))
        }
        Err(error) => Err(not_json(format!("not JSON: {error}"))),
    }
}

/// An object's members in their order, the values unread.
struct Members<'a>(Vec<(String, &'a str)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            members.push((name, value.get()));
        }
        Ok(Members(members))
    }
}

fn event_type(value: Option<&str>) -> Result<Arc<str>, FieldError> {
    let name = string("event_type", value, EVENT_TYPE_EXPECTED)?;
    event_type::check(&name).map_err(|expected| FieldError::new("event_type", quoted(&name), expected))?;
    Ok(name.into())
}

fn payload(value: Option<&str>) -> Result<Bytes, FieldError> {
    let wrong = |found: &str| FieldError::new("payload", found, PAYLOAD_EXPECTED);
    let json = value.ok_or_else(|| wrong("nothing"))?;
    if json::is_deeper_than(MAX_DEPTH, json.as_bytes()) {
        return Err(wrong("a value that is nested deeper"));
    }
    // A copy: a slice would hold all of the body, spaces around the payload included, and the engine counts payloads.
    Ok(Bytes::copy_from_slice(json.as_bytes()))
}

/// Not null: who names a tenant and has none must not publish to another.
fn tenant(value: Option<&str>, caller: &Caller) -> Result<Arc<str>, FieldError> {
    let named = value.map(|_| string("tenant", value, tenant::EXPECTED)).transpose()?;
    if let Some(name) = &named {
        tenant::check(name)?;
    }
    tenant::meant(caller, named).map(Arc::from)
}

fn ordering_key(value: Option<&str>) -> Result<Option<Arc<str>>, FieldError> {
    if value.is_none_or(|json| json == "null") {
        return Ok(None);
    }
    let key = string("ordering_key", value, ORDERING_KEY_EXPECTED)?;
    if !(1..=MAX_ORDERING_KEY_CHARS).contains(&key.chars().count()) || key.chars().any(char::is_control) {
        return Err(FieldError::new("ordering_key", quoted(&key), ORDERING_KEY_EXPECTED));
    }
    Ok(Some(key.into()))
}

fn string(field: &'static str, value: Option<&str>, expected: &'static str) -> Result<String, FieldError> {
    let wrong = |found: &str| FieldError::new(field, found, expected);
    match value {
        None => Err(wrong("nothing")),
        // What is JSON can still be no text: an escape of half a character.
        Some(json) if json.starts_with('"') => {
            serde_json::from_str(json).map_err(|_| wrong("a string with an escape that is no character"))
        }
        Some(json) => Err(wrong(kind_of(json))),
    }
}

#[cfg(test)]
#[path = "event_body_tests.rs"]
mod tests;
