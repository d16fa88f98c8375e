//! What must hold of the configuration, whatever is in the environment and the file.

use std::collections::BTreeMap;

use super::{ConfigFile, Flags, resolve};

const SECRET: &str = "hunter2";
/// Longest error: a value that is cut, and the names of all settings.
const MAX_ERROR_CHARS: usize = 2000;

/// A configuration that is refused is refused in one line, and neither that line nor what is shown of an accepted one holds
/// a password. The first line comes after the password of both URLs; up to `---` follow variables, then a file.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if text.contains(SECRET) {
        return;
    }
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let (variables, file) = rest.split_once("---").unwrap_or((rest, ""));
    let mut env: BTreeMap<_, _> = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.replace("\\n", "\n"), value.replace("\\n", "\n")))
        .collect();
    env.insert("REDIS_URL".to_owned(), format!("redis://:{SECRET}@{first}"));
    let url = format!("postgres://app:{SECRET}@{first}");
    let line = format!("database_url = '{url}'\n{file}");
    // The password comes by the environment and by the file.
    for (database_url, text) in [(Some(url), file), (None, line.as_str())] {
        let mut env = env.clone();
        env.extend(database_url.map(|url| ("DATABASE_URL".to_owned(), url)));
        let file = ConfigFile { path: "hookpost.toml".into(), text: text.to_owned() };
        match resolve(Some(&file), &env, &Flags::default()) {
            Err(error) => {
                let said = error.to_string();
                assert!(!said.contains(SECRET), "{said}");
                assert!(!said.contains(char::is_control), "more than a line: {said:?}");
                assert!(said.chars().count() <= MAX_ERROR_CHARS, "{said}");
            }
            Ok(resolved) => {
                let shown = format!("{:?}", (&resolved.settings, &resolved.config));
                assert!(!shown.contains(SECRET), "{shown}");
            }
        }
    }
}
