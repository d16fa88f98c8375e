//! `hookpost serve`: starts the service, says where it is, and stops it when asked.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{print, runtime};
use crate::config::{Auth, Config, LogFormat};
use crate::service::Service;
use crate::telemetry;

/// Runs until a signal, or until another process has taken the store.
pub(super) fn run(config: Config) -> ExitCode {
    let format = config.log_format;
    let served = telemetry::init(&config).and_then(|()| {
        let runtime = runtime()?;
        let code = runtime.block_on(serve(config));
        // What still runs has been drained or given up on; waiting for it would hang the exit.
        runtime.shutdown_background();
        code
    });
    served.unwrap_or_else(|error| failed(&error, format))
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new().context("signals cannot be listened to")?;
    let service = tokio::select! {
        started = Service::start(config.clone()) => started?,
        caught = signals.next() => {
            tracing::info!(signal = caught.name, "stopped before the start was complete");
            return Ok(ExitCode::SUCCESS);
        }
    };
    #[cfg(feature = "negative-controls")]
    tracing::error!("{}", crate::negative_controls::WARNING);
    warn_of_open_doors(&config);
    announce(&config, service.local_addr());

    tokio::select! {
        // No drain: what is in memory belongs to the other process by now, and the store refuses our writes.
        reason = service.lost() => bail!("{reason}; this process stops, so that nothing is sent twice or left undone"),
        caught = signals.next() => {
            tracing::info!(signal = caught.name, "stopping: attempts in flight are finished; once more to stop at once");
        }
    }
    tokio::select! {
        () = service.stop() => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        caught = signals.next() => {
            tracing::warn!(signal = caught.name, "stopped at once; attempts in flight will be made again");
            Ok(ExitCode::from(caught.exit_code))
        }
    }
}

/// A failure is one line, in the form that the logs have.
fn failed(error: &anyhow::Error, format: LogFormat) -> ExitCode {
    match format {
        LogFormat::Json => tracing::error!(error = format!("{error:#}"), "hookpost failed"),
        LogFormat::Pretty => {
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("error: {error:#}\n"));
        }
    }
    ExitCode::FAILURE
}

fn warn_of_open_doors(config: &Config) {
    if config.auth == Auth::Off {
        tracing::warn!(listen = %config.listen, "nobody is asked for a key: whoever reaches this listener may do everything");
    }
    if config.dev && !config.on_loopback() {
        tracing::warn!("--dev lets callers reach what listens on this machine's loopback; do not use it on a network");
    }
}

/// Says where the service is: to programs as a line of the log, to people on standard output.
fn announce(config: &Config, addr: SocketAddr) {
    let (url, store) = (url(addr), config.store());
    match config.log_format {
        LogFormat::Json => {
            tracing::info!(version = env!("CARGO_PKG_VERSION"), url, store, "hookpost listens");
        }
        LogFormat::Pretty => {
            let _ = print(&greeting(&url, &store, config.dev));
        }
    }
}

fn greeting(url: &str, store: &str, dev: bool) -> String {
    let mut text = format!("Hookpost {} listens on {url} ({store})\n", env!("CARGO_PKG_VERSION"));
    if dev {
        let _ = write!(
            text,
            "\n  Home      {url}/\n  API docs  {url}/docs\n\n\
             In another terminal, a receiver; then a subscription to it, and an event:\n  \
             hookpost listen --server {url}\n  \
             curl {url}/subscriptions -H 'Content-Type: application/json' \
             -d '{{\"target_url\":\"http://127.0.0.1:9000/\"}}'\n  \
             curl {url}/ingest/1 -H 'Content-Type: application/json' -H 'event_type: order.created' \
             -d '{{\"order_id\":123}}'\n\n"
        );
    }
    text
}

/// An address that can be clicked: "every address" is no host.
fn url(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() { format!("http://localhost:{}", addr.port()) } else { format!("http://{addr}") }
}

/// The two ways in which a process is asked to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// One of them.
struct Caught {
    name: &'static str,
    /// By convention 128 and the signal's number.
    exit_code: u8,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Caught {
        tokio::select! {
            _ = self.terminate.recv() => Caught { name: "SIGTERM", exit_code: 128 + 15 },
            _ = self.interrupt.recv() => Caught { name: "SIGINT", exit_code: 128 + 2 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_in_development_shows_the_way() {
        let text = greeting("http://127.0.0.1:8000", "embedded store in ./data", true);
        assert!(text.lines().next().unwrap().contains("http://127.0.0.1:8000 (embedded store in ./data)"), "{text}");
        for part in ["http://127.0.0.1:8000/docs", "hookpost listen", "/subscriptions", "/ingest/1"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(greeting("http://127.0.0.1:8000", "PostgreSQL", false).lines().count(), 1);
    }

    #[test]
    fn every_address_is_shown_as_localhost() {
        assert_eq!(url("0.0.0.0:8000".parse().unwrap()), "http://localhost:8000");
        assert_eq!(url("[::1]:8000".parse().unwrap()), "http://[::1]:8000");
    }
}
