//! All paths and methods as data: what a wrong method is answered with, and what the OpenAPI document is held against.

/// A path and the methods it takes. `HEAD` goes wherever `GET` does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// With `{names}` for segments that vary.
    pub path: &'static str,
    pub methods: &'static [&'static str],
}

const fn route(path: &'static str, methods: &'static [&'static str]) -> Route {
    Route { path, methods }
}

/// Every route there is.
pub(super) const ROUTES: &[Route] = &[
    route("/ingest/{id}", &["POST"]),
    route("/events", &["POST"]),
    route("/events/{event_id}", &["GET"]),
    route("/subscriptions", &["GET", "POST"]),
    route("/subscriptions/{id}", &["GET", "PUT", "PATCH", "DELETE"]),
    route("/subscriptions/{id}/disable", &["POST"]),
    route("/subscriptions/{id}/enable", &["POST"]),
    route("/subscriptions/{id}/changes", &["GET"]),
    route("/subscriptions/{id}/secret", &["GET"]),
    route("/subscriptions/{id}/secret/rotate", &["POST"]),
    route("/subscriptions/{id}/public-key", &["GET"]),
    route("/subscriptions/{id}/state", &["GET"]),
    route("/subscriptions/{id}/logs", &["GET"]),
    route("/audit", &["GET"]),
    route("/status/{delivery_id}", &["GET"]),
    route("/deliveries/{delivery_id}/explain", &["GET"]),
    route("/deliveries", &["GET"]),
    route("/deliveries/{delivery_id}/resend", &["POST"]),
    route("/subscriptions/{id}/replay", &["POST"]),
    route("/subscriptions/{id}/replays", &["GET"]),
    route("/replays/{replay_id}", &["GET"]),
    route("/replays/{replay_id}/cancel", &["POST"]),
    route("/keys", &["GET", "POST"]),
    route("/keys/{prefix}", &["GET", "DELETE"]),
    route("/", &["GET"]),
    route("/docs", &["GET"]),
    route("/docs/{file}", &["GET"]),
    route("/openapi.json", &["GET"]),
    route("/problems/{name}", &["GET"]),
    route("/livez", &["GET"]),
    route("/readyz", &["GET"]),
    route("/metrics", &["GET"]),
];

impl Route {
    /// Whether this is the route of a path. A slash at its end makes no difference, as in warp.
    pub fn matches(&self, path: &str) -> bool {
        let mut given = path.trim_end_matches('/').split('/');
        let mut named = self.path.trim_end_matches('/').split('/');
        loop {
            match (named.next(), given.next()) {
                (None, None) => return true,
                (Some(name), Some(value)) if name.starts_with('{') && !value.is_empty() || name == value => {}
                _ => return false,
            }
        }
    }

    /// The value of `Allow`.
    pub fn allow(&self) -> String {
        let head = if self.methods.contains(&"GET") { ", HEAD" } else { "" };
        format!("{}{head}", self.methods.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(path: &str) -> Option<&'static str> {
        ROUTES.iter().find(|route| route.matches(path)).map(|route| route.path)
    }

    #[test]
    fn a_path_has_the_route_of_its_segments() {
        assert_eq!(matching("/"), Some("/"));
        assert_eq!(matching("/docs/"), Some("/docs"));
        assert_eq!(matching("/subscriptions/1/"), Some("/subscriptions/{id}"));
        assert_eq!(matching("/subscriptions/1/logs"), Some("/subscriptions/{id}/logs"));
        for path in ["/x", "/subscriptions/1/2", "/ingest", "/ingest//", "//", "/livez/x"] {
            assert!(matching(path).is_none_or(|found| found == "/"), "{path}: {:?}", matching(path));
        }
    }

    #[test]
    fn head_is_allowed_with_get() {
        assert_eq!(route("/", &["GET", "PUT"]).allow(), "GET, PUT, HEAD");
        assert_eq!(route("/", &["POST"]).allow(), "POST");
    }
}
