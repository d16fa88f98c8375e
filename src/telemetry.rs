//! Logs: one line a fact, on standard error. For people (compact, coloured on a terminal) or one JSON object a line.
//!
//! Lines are written by the thread that logs, and wait for a reader that does not read. Dropping them instead would
//! hide the very moments that matter; so what happens to every delivery is logged at `debug`, and `info` is for what
//! is rare.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;

use anyhow::Context;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{Config, LogFormat};

/// Actors open a span for every message, at `info`; the PostgreSQL client logs parameters, payloads and secrets among
/// them, at `debug`; refinery says at every start that there is nothing to do, with the path that it was built at. Put before the
/// configured filter, which may say otherwise.
const ALWAYS: &str = "ractor=warn,tokio_postgres=warn,refinery_core=warn";

/// Sends the logs of this process, panics included, where the configuration says. Once a process.
///
/// # Errors
/// When it was done already.
pub fn init(config: &Config) -> anyhow::Result<()> {
    let color = io::stderr().is_terminal();
    let layer = layer(config.log_format, color, io::stderr);
    let logs = tracing_subscriber::registry().with(layer).with(filter(&config.log)?);
    logs.try_init().context("logs are set up already")?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn filter(log: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("{ALWAYS},{log}"))
}

fn layer<W>(format: LogFormat, color: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A standard error that is closed must not bring the process down: the layer would report that there, and panic.
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        // `NO_COLOR` is already heeded by default; colour is only ever taken away here.
        LogFormat::Pretty if color => layer.compact().fmt_fields(OneLine).boxed(),
        LogFormat::Pretty => layer.compact().fmt_fields(OneLine).with_ansi(false).boxed(),
    }
}

/// A panic is logged like everything else: its default report has many lines and is no JSON.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string);
    let said = panic.payload_as_str().unwrap_or("something that is no text");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(at, said, backtrace, "a thread or task panicked");
}

/// `message name=value name=value`, with line breaks and terminal sequences escaped, so that a receiver's words can neither
/// forge a line nor move the cursor. The layer's own escaping covers only the message.
struct OneLine;

impl<'w> FormatFields<'w> for OneLine {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line { writer, result: Ok(()), begun: false };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'w> {
    writer: Writer<'w>,
    result: fmt::Result,
    begun: bool,
}

impl Line<'_> {
    fn write(&mut self, name: &str, value: &dyn fmt::Debug) -> fmt::Result {
        if std::mem::replace(&mut self.begun, true) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            write!(self.writer, "{name}=")?;
        }
        write!(Escaping(&mut self.writer), "{value:?}")
    }
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Events of the `log` crate carry where they come from a second time, under these names.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.write(field.name(), value);
        }
    }
}

struct Escaping<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            c if c.is_control() => write!(self.0, "{}", c.escape_default()),
            c => self.0.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written when this is logged.
    fn logged(format: LogFormat, log: &str, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = layer(format, false, move || writer.clone());
        let logs = tracing_subscriber::registry().with(layer).with(filter(log).unwrap());
        tracing::subscriber::with_default(logs, events);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_at_the_top() {
        let text = logged(LogFormat::Json, "info", || {
            tracing::info!(delivery_id = "d1", subscription_id = 7, "attempt failed");
            tracing::warn!(error = "\"}\n{\"level\":\"ERROR\"", "a receiver's words");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!((&lines[0]["delivery_id"], &lines[0]["subscription_id"]), (&"d1".into(), &7.into()));
        assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"INFO".into(), &"attempt failed".into()));
        assert_eq!(lines[1]["error"], "\"}\n{\"level\":\"ERROR\"");
    }

    #[test]
    fn a_receivers_words_cannot_forge_a_line_or_move_the_cursor() {
        let text = logged(LogFormat::Pretty, "info", || {
            let error = "no\n2030-01-01T00:00:00Z ERROR hookpost: all is lost\r\u{1b}[2J";
            tracing::info!(%error, "attempt failed");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(": attempt failed error=no") && text.contains("error=no\\n2030"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text}");
    }

    #[test]
    fn actors_are_quiet_unless_they_are_asked() {
        let speak = || tracing::info!(target: "ractor::actor", "a message");
        assert_eq!(logged(LogFormat::Pretty, "debug", speak), "");
        assert!(logged(LogFormat::Pretty, "debug,ractor=info", speak).contains("a message"));
    }
}
