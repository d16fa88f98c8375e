//! Keeps web pages of other origins from changing anything: a browser sends their requests, and only it says whose
//! they are. Programs send no `Origin` and are not concerned.

use warp::http::{Request, header};

use super::problem::{FieldError, Kind, Problem, quoted};

/// Refuses a request that may change something and comes from another origin's page.
pub(super) fn refuse<B>(request: &Request<B>) -> Option<Problem> {
    let origin = request.headers().get(header::ORIGIN)?;
    if request.method().is_safe() {
        return None;
    }
    let origin = origin.to_str().unwrap_or("?");
    let ours = |host: &str| origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host));
    if hosts(request).any(ours) {
        return None;
    }
    let error = FieldError::new("header Origin", quoted(origin), "this server's own origin, or no such header");
    Some(Problem::with_errors(Kind::ForeignOrigin, vec![error]))
}

/// Under which names the server was called. A page cannot set the second: a proxy did.
fn hosts<B>(request: &Request<B>) -> impl Iterator<Item = &str> {
    let named = [header::HOST.as_str(), "x-forwarded-host"].into_iter();
    let named = named.filter_map(|name| request.headers().get(name)?.to_str().ok());
    request.uri().authority().map(|authority| authority.as_str()).into_iter().chain(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/subscriptions");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        refuse(&request.body(()).unwrap()).is_some()
    }

    #[test]
    fn programs_and_our_own_pages_may_change_things() {
        assert!(!refused("POST", &[("host", "localhost:8000")]));
        assert!(!refused("POST", &[("host", "localhost:8000"), ("origin", "http://LOCALHOST:8000")]));
        let proxied =
            [("host", "10.0.0.1"), ("x-forwarded-host", "hooks.example"), ("origin", "https://hooks.example")];
        assert!(!refused("PUT", &proxied));
    }

    #[test]
    fn pages_of_other_origins_may_only_read() {
        for origin in ["https://evil.example", "null", "http://localhost:8000.evil.example", "http://localhost", ""] {
            let headers = [("host", "localhost:8000"), ("origin", origin)];
            assert!(refused("POST", &headers) && refused("DELETE", &headers), "{origin:?}");
            assert!(!refused("GET", &headers));
        }
    }
}
