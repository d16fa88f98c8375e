//! `hookpost doctor`: looks at everything that a service depends on, says what was found and what to do about it. Changes
//! nothing, and shows no secret. Each check is a file or a function of its own; what they judge is pure.

mod environment;
mod machine;
mod store;

use std::fmt::{self, Write};

use serde::Serialize;

use crate::clock::Clock;
use crate::config::{Config, ConfigError, Resolved};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and may not when it matters.
    Warn,
    /// It does not work.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, if there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), todo: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), todo: Some(todo.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), todo: Some(todo.into()) }
    }
}

/// Looks at all of it. A configuration that cannot be read is all that there is to see.
pub async fn examine(loaded: &Result<Resolved, ConfigError>) -> Vec<Finding> {
    let config = match loaded {
        Ok(resolved) => &resolved.config,
        Err(error) => {
            let todo = "correct it; `hookpost config` shows what is in force, and config/default.toml what there is";
            return vec![Finding::fail("configuration", error.to_string(), todo)];
        }
    };
    let mut findings = vec![configuration(config)];
    findings.extend(store::examine(config, &Clock::start()).await);
    findings.push(environment::redis(config).await);
    findings.extend(environment::collector(config).await);
    findings.push(machine::descriptors());
    findings.extend(environment::targets(config));
    findings.push(environment::listening(config));
    findings.push(environment::exposure(config));
    findings
}

fn configuration(config: &Config) -> Finding {
    let found = format!("valid; listens on {}, {}", config.listen, config.store());
    if config.dev && !config.on_loopback() {
        let todo = "leave --dev out: it lets callers reach what listens on this machine's loopback";
        return Finding::warn("configuration", format!("{found}, with --dev"), todo);
    }
    Finding::ok("configuration", found)
}

/// One line a finding.
pub fn lines(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, verdict, found, todo } in findings {
        let found = found.replace(['\n', '\r'], " ");
        let _ = write!(text, "{verdict:<4}  {check:<width$}  {found}");
        let _ = todo.as_ref().map_or(Ok(()), |todo| write!(text, "; {todo}"));
        text.push('\n');
    }
    text
}

/// Whether anything does not work.
pub fn has_failed(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.verdict == Verdict::Fail)
}

#[cfg(test)]
mod tests;
