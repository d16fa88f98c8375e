//! The command line: what can be asked of the binary, and how it answers the shell.

mod doctor;
mod healthcheck;
mod keys;
mod master;
mod serve;
mod show;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{Config, ConfigError, Flags};
use crate::listen::{self, ListenArgs};
use crate::service;
use crate::telemetry;

#[cfg(not(feature = "negative-controls"))]
const VERSION: &str = env!("CARGO_PKG_VERSION");
#[cfg(feature = "negative-controls")]
const VERSION: &str = crate::negative_controls::WARNING;

const HELP_START: &str = "\
Start, in two terminals (nothing else is needed):
  hookpost serve --dev     the service, with its store in ./data
  hookpost listen          a receiver; it prints the two requests that try it all out

In production:
  export DATABASE_URL=postgres://... REDIS_URL=redis://...
  hookpost keys create --admin     makes the first key, and shows it once
  hookpost serve

`hookpost config` shows every setting, its value and where it came from;
`hookpost serve --help` names them.
`hookpost doctor` looks at all that a service depends on, before the start or beside it.";

const HELP_SERVE: &str = "\
Examples:
  hookpost serve --dev                         try it out: embedded store, loopback targets allowed
  hookpost serve --listen 127.0.0.1:9090       another port
  hookpost keys create --admin                 make the first key, which callers are then asked for
  HOOKPOST_LISTEN=0.0.0.0:8000 HOOKPOST_AUTH=off hookpost serve
                                               without keys, where something keeps strangers out

Environment, under the flags and over the file:
  HOOKPOST_LISTEN, HOOKPOST_DATA_DIR, DATABASE_URL, REDIS_URL, HOOKPOST_CONFIG   as the flags
  HOOKPOST_AUTH              keys, or off: nobody is asked for one [default: keys; off with --dev]
  HOOKPOST_RETRY_SCHEDULE    waits between attempts [default: 10s,30s,1m,5m,15m]
  HOOKPOST_ATTEMPT_TIMEOUT   deadline of a whole attempt [default: 10s]
  HOOKPOST_DNS_SERVERS       name servers to ask instead of the system's: 10.0.0.2:53,10.0.0.3:53
  HOOKPOST_RETENTION         how long deliveries and logs are kept [default: 72h]
  HOOKPOST_MASTER_KEY        what secrets are encrypted with: `hookpost keys new-master`
  HOOKPOST_MASTER_KEY_FILE   a file with them, one a line, instead
  HOOKPOST_MAX_SUBSCRIPTIONS how many a tenant may have [default: 100000]
  HOOKPOST_ALLOW_TARGETS     private ranges that may be targets, such as 10.1.0.0/16
  HOOKPOST_REQUIRE_HTTPS     true: no plain http, except in those ranges [default: false]
  HOOKPOST_REFUSED_PORTS     ports that are never a target [default: mail, Redis, ...]
  HOOKPOST_OTLP_ENDPOINT     where spans are sent, such as http://localhost:4318 [default: nowhere]
  HOOKPOST_LOG               level or filter, such as info,hookpost=debug [default: info]
  HOOKPOST_LOG_FORMAT        pretty or json [default: pretty]

SIGTERM or Ctrl-C finishes what is in flight and stops; a second one stops at once.
Exit status: 0 stopped as asked, 1 failed, 2 the command line or the configuration is wrong.";

const HELP_COMPLETIONS: &str = "\
Example:
  hookpost completions bash > ~/.local/share/bash-completion/completions/hookpost";

/// Delivers webhooks: durable before the answer, at least once, each receiver on its own.
#[derive(Debug, Parser)]
#[command(name = "hookpost", version = VERSION, after_help = HELP_START)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Accept events and deliver them
    #[command(after_help = HELP_SERVE)]
    Serve(Flags),
    /// Receive deliveries here: print and verify each one, fail on purpose
    Listen(ListenArgs),
    /// Print the effective configuration: each setting, its value, where it came from
    Config {
        #[command(flatten)]
        flags: Flags,
        /// As a JSON array of {name, value, source}
        #[arg(long)]
        json: bool,
    },
    /// Bring the store's schema up to date and stop; `serve` does it too
    Migrate(Flags),
    /// Make, list and revoke API keys, and replace master keys, in the store itself: whether a service runs or not
    #[command(after_help = keys::HELP)]
    Keys {
        #[command(subcommand)]
        command: keys::Command,
    },
    /// Look at what a service depends on, and say what to do: configuration, store, Redis, clock, limits, targets, keys
    #[command(after_help = doctor::HELP)]
    Doctor {
        #[command(flatten)]
        flags: Flags,
        /// As a JSON array of {check, verdict, found, todo}
        #[arg(long)]
        json: bool,
    },
    /// Ask the service on the configured listener whether it is ready; exit status 0 means yes
    Healthcheck(Flags),
    /// Print a completion script for a shell
    #[command(after_help = HELP_COMPLETIONS)]
    Completions {
        /// For which shell
        shell: Shell,
    },
}

/// Does what the arguments of this process ask for.
pub fn run() -> ExitCode {
    // Prints help, version and usage errors itself, and exits with 0 or 2.
    let Some(command) = Cli::parse().command else {
        return finish(Cli::command().print_help().context("the help cannot be printed"));
    };
    match command {
        Command::Serve(flags) => with_config(&flags, serve::run),
        Command::Migrate(flags) => with_config(&flags, |config| finish(migrate(&config))),
        Command::Keys { command } => keys::run(&command),
        Command::Doctor { flags, json } => doctor::run(&Config::load(&flags), json),
        Command::Healthcheck(flags) => with_config(&flags, |config| finish(healthcheck::run(config.listen))),
        Command::Config { flags, json } => match Config::load(&flags) {
            Ok(resolved) => finish(print(&show::settings(&resolved.settings, json))),
            Err(error) => misconfigured(&error),
        },
        Command::Listen(args) => finish(runtime().and_then(|runtime| runtime.block_on(listen::run(args)))),
        Command::Completions { shell } => finish(print(&completions(shell))),
    }
}

fn with_config(flags: &Flags, run: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::load(flags) {
        Ok(resolved) => run(resolved.config),
        Err(error) => misconfigured(&error),
    }
}

fn migrate(config: &Config) -> anyhow::Result<()> {
    telemetry::init(config)?;
    let store = runtime()?.block_on(service::migrate(config))?;
    print(&format!("{store}: the schema is up to date ({})\n", config.store()))
}

fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hookpost", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime cannot be started")
}

/// `println!` panics when nobody reads; this is an error like any other.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Such as `hookpost config | head -1`: whoever read has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output cannot be written"),
    }
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn misconfigured(error: &ConfigError) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests;
