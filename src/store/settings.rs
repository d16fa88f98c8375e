//! Settings as both stores keep them: JSON.

use std::sync::{Arc, LazyLock};

use crate::delivery::Settings;

/// Most subscriptions leave everything to the node: they share one.
static UNSAID: LazyLock<Arc<Settings>> = LazyLock::new(Arc::default);

/// What is written.
pub(super) fn to_text(settings: &Settings) -> String {
    serde_json::to_string(settings).expect("strings and numbers can always be written as JSON")
}

/// What was written; or what is wrong with it. A field that this version does not know is passed over.
pub(super) fn from_text(text: &str) -> Result<Arc<Settings>, String> {
    let settings = serde_json::from_str(text).map_err(|error| format!("settings: {error}"))?;
    Ok(if settings == **UNSAID { UNSAID.clone() } else { Arc::new(settings) })
}
