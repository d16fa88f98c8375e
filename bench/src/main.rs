//! The benchmark: starts the release build of the service and the bare relay, plays producer and receivers itself with one
//! clock, and prints a table and a JSON file. Run it with `make bench`, which brings a PostgreSQL.

mod bad;
mod clock;
mod dns;
mod events;
mod fill;
mod http1;
mod pool;
mod process;
mod producer;
mod receiver;
mod relay;
mod report;
mod scenarios;
mod stores;

use std::path::PathBuf;

use anyhow::bail;
use clap::{Parser, Subcommand};

use crate::scenarios::Sizes;

/// Measures Hookpost against the bare relay, on this machine.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Only these scenarios (--list names them). None means all.
    scenarios: Vec<String>,
    /// How often each measurement is repeated; medians are reported.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// How often healthy traffic is measured without and with bad receivers, in turn.
    #[arg(long, default_value_t = 10)]
    reps: usize,
    /// Divides the size of everything, for a first look: its figures are worth little.
    #[arg(long, default_value_t = 1)]
    shrink: usize,
    /// Where the figures are written as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// A PostgreSQL server whose role may create databases: `make bench` starts one.
    #[arg(long, env = "TEST_DATABASE_URL")]
    database_url: Option<String>,
    /// Lists the scenarios and their goals.
    #[arg(long)]
    list: bool,
}

#[derive(Subcommand)]
enum Role {
    /// Serves as the bare relay (the benchmark starts it for itself).
    #[command(hide = true)]
    Relay {
        /// Where everything is sent: a URL to which `/{subscription}` is added.
        target: String,
    },
    /// Serves as the positive control of isolation: one pool of workers for all.
    #[command(hide = true, name = "one-pool")]
    SharedPool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Relay { target }) => return relay::run(&target).await,
        Some(Role::SharedPool) => return pool::run().await,
        None => {}
    }
    if arguments.list {
        scenarios::ALL.iter().for_each(|scenario| println!("{:<16} {}", scenario.name, scenario.about));
        return Ok(());
    }
    let known = |name: &String| scenarios::ALL.iter().any(|scenario| scenario.name == name);
    if let Some(unknown) = arguments.scenarios.iter().find(|name| !known(name)) {
        bail!("there is no scenario {unknown:?}; --list names them all");
    }
    let sizes = Sizes { runs: arguments.runs.max(1), reps: arguments.reps.max(1), shrink: arguments.shrink.max(1) };
    let mut bench = scenarios::Bench::new(sizes, arguments.database_url).await?;
    let wanted = |name: &str| arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|wanted| wanted == name);
    for scenario in scenarios::ALL.iter().filter(|scenario| wanted(scenario.name)) {
        eprintln!("── {} ({})", scenario.name, scenario.about);
        bench.run(scenario).await?;
    }
    report::write(&bench.rows, &arguments.json)?;
    if bench.control_passed {
        bail!("the positive control kept the goal: the scenarios of isolation prove nothing as they are");
    }
    Ok(())
}
