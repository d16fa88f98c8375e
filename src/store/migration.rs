//! What a migration that did not end well means.

use super::StoreError;

/// `store` is what was to be migrated, as people know it.
pub(super) fn failed(store: &str, error: &refinery::Error) -> StoreError {
    use refinery::error::Kind::{DivergentVersion, MissingVersion, RepeatedVersion};
    let why = with_causes(error);
    match error.kind() {
        DivergentVersion(..) | MissingVersion(..) | RepeatedVersion(..) => StoreError::Corrupt(format!(
            "{store} was made by another version of hookpost: {why}; run that version, or a newer one"
        )),
        _ => StoreError::Unavailable(format!("cannot migrate {store}: {why}")),
    }
}

/// refinery says which migration failed, and its cause says why.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
