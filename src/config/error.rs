//! What can be wrong with the configuration, each in one line.

use std::fmt;
use std::path::PathBuf;

use super::layers::Source;

/// Longest part of a wrong value that is shown.
const SHOWN_CHARS: usize = 80;

/// Why the configuration is refused. Every text is one line and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value cannot be used.
    #[error("{name} ({origin}) is {found}: {problem}; expected {expected}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// Where it was set.
        origin: Source,
        /// What was found there, masked and quoted.
        found: Found,
        /// What is wrong with it.
        problem: String,
        /// What would do.
        expected: &'static str,
    },
    /// The file has a key that means nothing.
    #[error("{key} in {path} is not a setting; {suggestion}", path = .path.display())]
    UnknownKey {
        /// The key, quoted.
        key: Found,
        /// The file.
        path: PathBuf,
        /// Which key may have been meant.
        suggestion: String,
    },
    /// The environment has a variable of ours that means nothing.
    #[error("environment variable {name} is not a setting; {suggestion}")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// Which may have been meant.
        suggestion: String,
    },
    /// A variable's value is not UTF-8.
    #[error("environment variable {name} is not valid UTF-8; expected text")]
    NotText {
        /// The variable.
        name: String,
    },
    /// The file is not TOML.
    #[error("{path}, line {line}, is not TOML: {problem}", path = .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In the parser's words.
        problem: String,
    },
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {error}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// The file of the master keys cannot be read, or holds something else.
    #[error("the master key file {path} cannot be used: {problem}; expected one key a line, as `hookpost keys new-master` \
             makes them", path = .path.display())]
    MasterKeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, without what it says.
        problem: String,
    },
}

/// What was found, as it is safe to show: quoted, escaped, and cut short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found(String);

impl Found {
    pub(super) fn new(text: &str) -> Self {
        let shown: String = text.chars().take(SHOWN_CHARS).collect();
        let more = if shown.len() < text.len() { "…" } else { "" };
        Self(format!("{shown:?}{more}"))
    }
}

/// A variable's name, which whoever made the environment chose: on one line, and cut likewise.
pub(super) fn variable(name: &str) -> String {
    name.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
