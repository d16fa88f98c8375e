//! `hookpost config`: the effective configuration, for people and for programs.

use crate::config::Setting;

/// A value that is longer moves its own source to the right, and no other.
const VALUE_COLUMNS: usize = 40;

/// One line a setting, in columns; or a JSON array.
pub(super) fn settings(settings: &[Setting], json: bool) -> String {
    if json {
        let array = serde_json::to_string_pretty(settings).expect("texts can always be written as JSON");
        return array + "\n";
    }
    let width = |text: fn(&Setting) -> &str| settings.iter().map(|s| text(s).chars().count()).max().unwrap_or(0);
    let (names, values) = (width(|setting| setting.name), width(shown).min(VALUE_COLUMNS));
    settings
        .iter()
        .map(|setting| format!("{:names$}  {:values$}  {}\n", setting.name, shown(setting), setting.source))
        .collect()
}

fn shown(setting: &Setting) -> &str {
    if setting.value.is_empty() { "-" } else { &setting.value }
}
