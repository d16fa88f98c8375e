//! The HTTP API: one file a resource. Handlers parse, call, and render; the routes are warp filters over our own accept
//! loop (`server.rs`), and every path is listed in `routes.rs`.

mod access;
mod arrival;
mod audit;
mod body;
mod deliveries;
mod enabling;
mod event;
mod event_body;
mod event_type;
mod events;
mod explain;
mod explained;
mod framing;
pub(crate) mod fuzz;
mod health;
mod idempotency;
mod ingest;
mod json;
mod keys;
mod logs;
mod openapi;
mod origin;
mod pages;
mod problem;
mod problem_kind;
mod query;
mod replays;
mod reply;
mod routes;
mod secret;
mod secrets_body;
mod server;
mod settings_body;
mod state;
mod status;
mod subscription_body;
mod subscription_shown;
mod subscriptions;
mod tenant;
mod visible;

#[cfg(test)]
mod routes_tests;

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use warp::filters::BoxedFilter;
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::access::KeyRing;
use crate::actors::Engine;
use crate::clock::Clock;
use crate::delivery::SubscriptionId;
use crate::metrics::Metrics;
use crate::outbound::guard::TargetPolicy;
use crate::store::Store;
use crate::vault::Vault;
use body::{Bodies, BodyLimits};
use deliveries::Searches;
use problem::{Kind, NoRoute, Problem, quoted};
use routes::ROUTES;
use server::ServerLimits;

/// What the handlers work with.
pub struct Api {
    /// Accepts events, and is told of changes.
    pub engine: Engine,
    /// Reads, and changes to subscriptions.
    pub store: Arc<dyn Store>,
    /// Seals secrets, and opens them for whoever may see them.
    pub vault: Arc<Vault>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Judges target URLs.
    pub policy: Arc<TargetPolicy>,
    /// Whose keys open which routes; `None` when nobody is asked for one.
    pub keys: Option<Arc<KeyRing>>,
    /// Most subscriptions of a tenant.
    pub max_subscriptions: u64,
    /// Whether the pages say that this is a development instance.
    pub dev: bool,
    /// Tells the time.
    pub clock: Clock,
}

/// Serves until `stopped` resolves, then finishes what is being answered, for at most `drain`.
pub async fn serve(listener: TcpListener, api: Arc<Api>, stopped: impl Future<Output = ()> + Send, drain: Duration) {
    let service = TowerToHyperService::new(warp::service(routes(api, BodyLimits::default())));
    server::run(listener, service, ServerLimits::default(), stopped, drain).await;
}

/// The API, and what reads its bodies.
struct Http {
    api: Arc<Api>,
    bodies: Bodies,
    searches: Searches,
}

/// All routes. They are tried in this order: what is called most comes first.
fn routes(
    api: Arc<Api>,
    limits: BodyLimits,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    let http = Arc::new(Http { api, bodies: Bodies::new(limits), searches: Searches::default() });
    ingest::routes(&http)
        .or(events::routes(&http))
        .unify()
        .or(event::routes(&http))
        .unify()
        .or(subscriptions::routes(&http))
        .unify()
        .or(status::routes(&http))
        .unify()
        .or(logs::routes(&http))
        .unify()
        .or(enabling::routes(&http))
        .unify()
        .or(secret::routes(&http))
        .unify()
        .or(audit::routes(&http))
        .unify()
        .or(state::routes(&http))
        .unify()
        .or(explained::routes(&http))
        .unify()
        .or(deliveries::routes(&http))
        .unify()
        .or(replays::routes(&http))
        .unify()
        .or(keys::routes(&http))
        .unify()
        .or(health::routes(&http))
        .unify()
        .or(pages::routes(&http))
        .unify()
        .or(openapi::routes())
        .unify()
        .or(no_route())
        .unify()
        .recover(problem::recover)
        .unify()
}

/// The end of the routes: hands method and path to `problem::recover`.
fn no_route() -> BoxedFilter<(Response,)> {
    warp::method()
        .and(warp::path::full())
        .and_then(|method, path: FullPath| async move {
            Err::<Response, Rejection>(warp::reject::custom(NoRoute { method, path: path.as_str().to_owned() }))
        })
        .boxed()
}

fn with(http: &Arc<Http>) -> impl Filter<Extract = (Arc<Http>,), Error = Infallible> + Clone + use<> {
    let http = http.clone();
    warp::any().map(move || http.clone())
}

/// `HEAD` is answered like `GET`; hyper leaves the body out.
fn get_or_head() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::get().or(warp::head()).unify()
}

/// A segment of a path that should be a subscription's id. Taking it never fails, so that what is no id is a missing
/// subscription and not a missing page.
struct IdSegment(Result<SubscriptionId, String>);

impl FromStr for IdSegment {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let id = text.parse().ok().filter(|_| digits).map(SubscriptionId);
        Ok(Self(id.ok_or_else(|| quoted(text))))
    }
}

impl IdSegment {
    fn id(&self) -> Result<SubscriptionId, Problem> {
        let unknown = |found| {
            let detail = format!("{found} is no subscription: ids are numbers, as in /subscriptions/1");
            Problem::new(Kind::SubscriptionNotFound, detail)
        };
        self.0.as_ref().copied().map_err(unknown)
    }
}
