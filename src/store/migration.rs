//! What a migration is announced with, and what one that did not end well means.

use refinery::{Migration, Runner};

use super::StoreError;

/// Whether a store that holds something is about to be changed, and says so: it may take long, and nothing is accepted meanwhile.
/// `applied` is the last migration that it has had; a new store has had none.
pub(super) fn announce(store: &str, runner: &Runner, applied: Option<&Migration>) -> bool {
    let known = runner.get_migrations().iter().map(Migration::version).max();
    match (applied.map(Migration::version), known) {
        (Some(from), Some(to)) if from < to => {
            tracing::info!(store, from, to, "migrating the store; it may take minutes if it holds much");
            true
        }
        _ => false,
    }
}

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

/// refinery says which migration failed, and only sometimes why.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let why = inner.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = inner.source();
    }
    text
}
