//! Whether events are accepted, and what that depends on, in words.

use super::census;
use super::engine::{Engine, STANDBY};
use crate::metrics::Live;

/// One thing that readiness depends on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// `store`, `role`, `cache`.
    pub name: &'static str,
    /// How it is.
    pub status: Health,
    /// In words.
    pub detail: String,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As it should be.
    Ok,
    /// Events are accepted all the same.
    Degraded,
    /// No events are accepted.
    Failed,
}

impl Check {
    fn ok(name: &'static str, detail: String) -> Self {
        Self { name, status: Health::Ok, detail }
    }

    fn failed(name: &'static str, detail: String) -> Self {
        Self { name, status: Health::Failed, detail }
    }
}

/// What the home page and `/readyz` show.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EngineStatus {
    /// Whether events are accepted; when not, why.
    pub not_ready: Option<String>,
    /// What that depends on.
    pub checks: Vec<Check>,
    /// `sqlite` or `postgres`.
    pub store: &'static str,
    /// `redis: connected`, `redis: unreachable`, `none`.
    pub cache: String,
    /// Subscription actors running.
    pub active_subscriptions: usize,
    /// HTTP attempts under way.
    pub attempts_in_flight: usize,
}

impl Engine {
    /// The engine as it is counted at this moment.
    pub fn live(&self) -> Live {
        let on_standby = || Live { store_up: true, ..Live::default() };
        let live = self.running.get().map_or_else(on_standby, |handles| census::live(&handles.node));
        Live { redis_up: self.cache.is_up(), ..live }
    }

    /// How the engine is.
    pub fn status(&self) -> EngineStatus {
        let node = self.running.get().map(|handles| &handles.node);
        let checks = vec![self.check_store(), self.check_role(), self.check_cache()];
        // In words, the worst first: what is checked first, the rest follows from.
        let failed = checks.iter().find(|check| check.status == Health::Failed);
        EngineStatus {
            not_ready: failed.map(|check| check.detail.clone()),
            checks,
            store: self.store.name(),
            cache: self.cache.status(),
            active_subscriptions: node.map_or(0, |node| node.active()),
            attempts_in_flight: node.map_or(0, |node| node.attempts.held()),
        }
    }

    fn check_store(&self) -> Check {
        let store = self.store.name();
        match self.running.get().map(|handles| &handles.node) {
            // Standing by, it is asked again and again whether it is free; here nobody knows more.
            None => Check::ok("store", format!("{store}: not in use by this process")),
            Some(node) if !node.writer.is_up() => Check::failed(
                "store",
                format!("the store is unavailable: {store} takes no commits; events are refused"),
            ),
            Some(node) if !node.is_reachable() => {
                Check::failed("store", format!("the store is unavailable: {store} does not answer"))
            }
            Some(_) => Check::ok("store", format!("{store} answers and takes commits")),
        }
    }

    fn check_role(&self) -> Check {
        match self.running.get().map(|handles| &handles.node) {
            None => Check::failed("role", STANDBY.to_owned()),
            Some(node) if node.is_draining() => Check::failed("role", "draining: this process is stopping".to_owned()),
            Some(_) => Check::ok("role", "this process delivers from the store".to_owned()),
        }
    }

    fn check_cache(&self) -> Check {
        match self.cache.status() {
            none if none == "none" => Check::ok("cache", "no Redis is configured".to_owned()),
            status if self.cache.is_up() => Check::ok("cache", status),
            status => Check {
                name: "cache",
                status: Health::Degraded,
                detail: format!(
                    "{status}; subscriptions are read from the store, and other processes hear of changes later"
                ),
            },
        }
    }
}
