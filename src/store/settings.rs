//! Settings as both stores keep them: JSON.

use crate::delivery::Settings;

/// What is written.
pub(super) fn to_text(settings: &Settings) -> String {
    serde_json::to_string(settings).expect("strings and numbers can always be written as JSON")
}

/// What was written; or what is wrong with it. A field that this version does not know is passed over.
pub(super) fn from_text(text: &str) -> Result<Settings, String> {
    serde_json::from_str(text).map_err(|error| format!("settings: {error}"))
}
