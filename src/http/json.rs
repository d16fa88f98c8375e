//! Whether a body is JSON, by its grammar alone: no values are built, numbers of any size and repeated names are the
//! receiver's business, because the bytes go out as they came in. And what kind of value a piece of JSON is.

use serde::de::IgnoredAny;

/// Deepest nesting that is passed on: what common parsers read by default. Deeper bodies are attacks on receivers.
pub(super) const MAX_DEPTH: usize = 128;

/// Says where and why a body is not JSON that is passed on. Quotes nothing of the body.
pub(super) fn check(body: &[u8]) -> Result<(), String> {
    serde_json::from_str::<IgnoredAny>(text(body)?).map_err(|error| format!("not JSON: {error}"))?;
    if is_deeper_than(MAX_DEPTH, body) {
        return Err(format!("the JSON is nested deeper than {MAX_DEPTH} levels"));
    }
    Ok(())
}

/// The body as the text that JSON has to be.
pub(super) fn text(body: &[u8]) -> Result<&str, String> {
    if body.is_empty() {
        return Err("the body is empty; expected one JSON value".to_owned());
    }
    std::str::from_utf8(body)
        .map_err(|error| format!("the body is not UTF-8: byte {} begins no character", error.valid_up_to()))
}

/// What a JSON value is, by the character that it begins with.
pub(super) fn kind_of(json: &str) -> &'static str {
    match json.trim_start().as_bytes().first() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'"') => "a string",
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        _ => "a number",
    }
}

/// Only for text that is JSON: then a bracket outside of a string opens or closes a level.
pub(super) fn is_deeper_than(limit: usize, json: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth > limit {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> Vec<u8> {
        [b"[".repeat(levels), b"]".repeat(levels)].concat()
    }

    #[test]
    fn every_json_value_is_accepted_whatever_it_means() {
        for body in [r#"{"order_id":123,"amount":49.99}"#, "1e999", r#"{"a":1,"a":2}"#, r#""\ud800""#, " null\n", "[]"]
        {
            assert_eq!(check(body.as_bytes()), Ok(()), "{body}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place_and_without_its_content() {
        for body in ["", "{", "{\"password\":hunter2}", "[1,]", "{} x", "nul", "\"a\nb\"", "\u{feff}{}", "NaN"] {
            let said = check(body.as_bytes()).expect_err(body);
            assert!(!said.contains("hunter2"), "{said}");
        }
        assert!(check(b"{\n \"a\": ]").unwrap_err().contains("line 2 column 7"));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_refused() {
        assert!(check(b"\"\xff\"").unwrap_err().contains("byte 1"));
    }

    #[test]
    fn nesting_is_accepted_up_to_its_limit() {
        assert_eq!(check(&nested(MAX_DEPTH)), Ok(()));
        assert!(check(&nested(MAX_DEPTH + 1)).is_err());
        assert!(check(&nested(100_000)).is_err());
    }

    #[test]
    fn the_kind_of_a_value_is_told_from_its_beginning() {
        for (json, kind) in [
            ("null", "null"),
            ("false", "a boolean"),
            ("-1e400", "a number"),
            (r#""a""#, "a string"),
            (" \n[]", "an array"),
            ("{}", "an object"),
        ] {
            assert_eq!(kind_of(json), kind, "{json}");
        }
    }

    #[test]
    fn brackets_in_strings_and_behind_escapes_are_not_levels() {
        let body = format!(r#"["{}", "\"{}"]"#, "[".repeat(500), "{".repeat(500));
        assert_eq!(check(body.as_bytes()), Ok(()));
    }
}
