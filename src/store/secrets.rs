//! Secrets as both stores keep them: JSON of sealed texts.

use crate::delivery::Secrets;

/// What is written.
pub(super) fn to_text(secrets: &Secrets) -> String {
    serde_json::to_string(secrets).expect("strings and numbers can always be written as JSON")
}

/// What was written; or what is wrong with it, without what it says.
pub(super) fn from_text(text: &str) -> Result<Secrets, String> {
    serde_json::from_str(text).map_err(|error| format!("secrets: line {}, column {}", error.line(), error.column()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_repeated() {
        for text in [r#"{"current":{"plain":"hunter2"}}"#, r#"{"previous":"hunter2"}"#, r#"{"current":"hunter2"#] {
            let error = from_text(text).unwrap_err();
            assert!(error.starts_with("secrets: line 1") && !error.contains("hunter2"), "{error}");
        }
    }
}
