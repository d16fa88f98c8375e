//! The HTTP API.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::actors::Engine;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::outbound::guard::TargetPolicy;
use crate::store::Store;

/// What the handlers work with.
pub struct Api {
    /// Accepts events, and is told of changes.
    pub engine: Engine,
    /// Reads, and changes to subscriptions.
    pub store: Arc<dyn Store>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Judges target URLs.
    pub policy: Arc<TargetPolicy>,
    /// Whether the pages say that this is a development instance.
    pub dev: bool,
    /// Tells the time.
    pub clock: Clock,
}

/// Serves until `stopped` resolves, then finishes what is being answered, for at most `drain`.
pub async fn serve(
    _listener: TcpListener,
    _api: Arc<Api>,
    _stopped: impl Future<Output = ()> + Send,
    _drain: Duration,
) {
    todo!()
}
