//! What people see in a browser: the home page, the Swagger UI, and a page a kind of problem. No page shows a payload,
//! everything is escaped, and nothing is loaded from elsewhere.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use utoipa_swagger_ui::Config;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::path::FullPath;
use warp::reply::Response;

use super::problem::{Kind, Problem, quoted};
use super::reply::{self, Answer, with_header};
use super::{Http, get_or_head, with};
use crate::actors::EngineStatus;

const STYLE: &str = include_str!("pages.css");
/// After the Swagger UI's own.
const DOCS_STYLE: &str = include_str!("docs.css");
/// A hook. In the page, for a browser asks for /favicon.ico where a page names none.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16' fill='none' \
                    stroke='%232a8a4a' stroke-width='2'%3E%3Ccircle cx='10' cy='3' r='2'/%3E%3Cpath d='M10 5v5a4 4 0 0 1-8 0V8'/%3E%3C/svg%3E";

/// Our own pages run no script and take no style but the one whose hash is named.
static PAGE_POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// The Swagger UI brings its own scripts, sets styles inline, and calls this API.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";

/// The routes of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let home = warp::path::end()
        .and(get_or_head())
        .and(with(http))
        .and(warp::header::headers_cloned())
        .map(|http: Arc<Http>, headers: HeaderMap| Ok(home(&http, &headers)));
    let config = Arc::new(Config::from("../openapi.json").validator_url("none"));
    let docs = warp::path("docs")
        .and(get_or_head())
        .and(warp::path::full())
        .and(warp::path::tail())
        .map(move |full: FullPath, file: warp::path::Tail| docs(full.as_str(), file.as_str(), &config));
    let problem = warp::path!("problems" / String).and(get_or_head()).map(|name: String| problem_page(&name));
    home.or(docs).unify().or(problem).unify().map(reply::render).boxed()
}

fn home(http: &Http, headers: &HeaderMap) -> Response {
    let (with_keys, dev) = (http.api.keys.is_some(), http.api.dev);
    let body = home_body(&http.api.engine.status(), with_keys, dev);
    page("Hookpost", &format!("{body}{}{}", home_links(with_keys), home_requests(headers, with_keys, dev)))
}

/// A browser that follows a link shows no key: where one is asked for, there is no link to the metrics.
fn home_links(with_keys: bool) -> String {
    let metrics = if with_keys { "" } else { " · <a href=\"/metrics\">metrics</a>" };
    format!(
        "<p><a href=\"/docs/\">API documentation</a> · <a href=\"/openapi.json\">OpenAPI document</a>{metrics} · \
         <a href=\"/readyz\">readiness</a></p>"
    )
}

/// Requests to try, to where the page itself was asked for: a key that is copied with them must not travel in the clear
/// where a proxy ends TLS.
fn home_requests(headers: &HeaderMap, with_keys: bool, dev: bool) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = if text("x-forwarded-proto") == Some("https") { "https" } else { "http" };
    let host = text("x-forwarded-host").or_else(|| text("host")).unwrap_or("localhost:8000");
    let (listen, target) =
        if dev { (LISTEN_FIRST, "http://127.0.0.1:9000/") } else { ("", "https://example.com/hook") };
    let key = if with_keys { " \\\n  -H \"Authorization: Bearer $KEY\"" } else { "" };
    HOME_REQUESTS
        .replace("{listen}", listen)
        .replace("{target}", target)
        .replace("{key}", key)
        .replace("{server}", &format!("{scheme}://{}", escaped(host)))
}

/// What is shown to everybody: figures only where nobody is asked who they are.
fn home_body(status: &EngineStatus, with_keys: bool, dev: bool) -> String {
    let ready = match &status.not_ready {
        None => "<p class=\"good\">Alive and ready: events are accepted.</p>".to_owned(),
        Some(reason) => format!("<p class=\"bad\">Alive, but not ready: {}.</p>", escaped(reason)),
    };
    if with_keys {
        return format!("{ready}<p class=\"note\">{KEYS_NEEDED}</p>");
    }
    let access = if dev {
        "Development mode: private targets are allowed, and nobody is asked who they are."
    } else {
        "Nobody is asked who they are: keep this port from strangers, or put a proxy with authentication before it."
    };
    format!(
        "{ready}<p class=\"note\">{access}</p>\
         <table><tr><th>Version</th><td>{version}</td></tr><tr><th>Store</th><td>{store}</td></tr>\
         <tr><th>Cache</th><td>{cache}</td></tr><tr><th>Active subscriptions</th><td>{active}</td></tr>\
         <tr><th>Attempts in flight</th><td>{attempts}</td></tr></table>",
        version = env!("CARGO_PKG_VERSION"),
        store = escaped(status.store),
        cache = escaped(&status.cache),
        active = status.active_subscriptions,
        attempts = status.attempts_in_flight,
    )
}

const KEYS_NEEDED: &str = "Every call but those for this page, the documentation and readiness needs an API key: in the \
                           examples <code>$KEY</code>.";
const HOME_REQUESTS: &str = include_str!("pages_home.html");
const LISTEN_FIRST: &str = "# In another terminal, a receiver:\nhookpost listen\n\n";

fn docs(full: &str, file: &str, config: &Arc<Config<'static>>) -> Answer {
    if full == "/docs" {
        // Its files are found relative to the directory.
        let response = reply::typed(StatusCode::PERMANENT_REDIRECT, "text/plain; charset=utf-8", "see /docs/\n");
        return Ok(with_header(response, header::LOCATION, "/docs/"));
    }
    let found = utoipa_swagger_ui::serve(file, config.clone()).map_err(|error| {
        tracing::error!(%error, file, "a file of the Swagger UI could not be rendered");
        Problem::new(Kind::Internal, "the file could not be rendered")
    })?;
    let found = found.ok_or_else(|| {
        Problem::new(Kind::PageNotFound, format!("the Swagger UI has no file {}; see /docs/", quoted(file)))
    })?;
    let bytes = match found.bytes {
        own if file == "index.css" => [&own, DOCS_STYLE.as_bytes()].concat().into(),
        Cow::Borrowed(in_binary) => Bytes::from_static(in_binary),
        Cow::Owned(rendered) => rendered.into(),
    };
    let mut response = Response::new(bytes.into());
    let content_type =
        HeaderValue::from_str(&found.content_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(secured(response, DOCS_POLICY))
}

fn problem_page(name: &str) -> Answer {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
        Problem::new(Kind::PageNotFound, format!("{} is no kind of problem; see /docs", quoted(name)))
    })?;
    let body = format!(
        "<p>Status {}, <code>/problems/{}</code></p><p>{}</p><p><a href=\"/docs/\">API documentation</a></p>",
        kind.status(),
        kind.name(),
        escaped(kind.advice()),
    );
    Ok(page(kind.title(), &body))
}

/// A page of our own. `body` is HTML.
fn page(title: &str, body: &str) -> Response {
    let title = escaped(title);
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
         <link rel=\"icon\" href=\"{ICON}\"><style>{STYLE}</style></head>\
         <body><main><h1>{title}</h1>{body}</main></body></html>\n"
    );
    let response = reply::typed(StatusCode::OK, "text/html; charset=utf-8", html);
    with_header(secured(response, &PAGE_POLICY), header::CACHE_CONTROL, "no-store")
}

fn secured(response: Response, policy: &str) -> Response {
    let response = with_header(response, header::CONTENT_SECURITY_POLICY, policy);
    let response = with_header(response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    with_header(response, header::REFERRER_POLICY, "no-referrer")
}

fn escaped(text: impl Display) -> String {
    let mut escaped = String::new();
    for character in text.to_string().chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(not_ready: Option<&str>, cache: &str) -> EngineStatus {
        EngineStatus {
            not_ready: not_ready.map(str::to_owned),
            checks: Vec::new(),
            store: "sqlite",
            cache: cache.to_owned(),
            active_subscriptions: 3,
            attempts_in_flight: 4,
        }
    }

    #[test]
    fn the_home_page_says_in_words_whether_events_are_accepted() {
        for with_keys in [false, true] {
            assert!(home_body(&status(None, "none"), with_keys, false).contains("Alive and ready"));
        }
        let away = home_body(&status(Some("the store is unavailable"), "none"), false, true);
        assert!(away.contains("not ready: the store is unavailable") && away.contains("Development mode"));
    }

    #[test]
    fn the_home_page_says_that_nobody_is_asked_for_a_key_and_shows_figures_only_then() {
        for dev in [false, true] {
            let open = home_body(&status(None, "redis: connected"), false, dev);
            assert!(open.contains("obody is asked who they are") && open.contains("redis: connected"), "{open}");
        }
        let closed = home_body(&status(None, "redis: connected"), true, false);
        assert!(
            closed.contains("needs an API key") && !closed.contains("redis") && !closed.contains("<table"),
            "{closed}"
        );
    }

    #[test]
    fn what_is_shown_is_inert() {
        let asked = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("a.example:9<script>"))]);
        let requests = home_requests(&asked, false, false);
        assert!(
            requests.contains("http://a.example:9&lt;script&gt;/subscriptions") && !requests.contains("<script>"),
            "{requests}"
        );
        let body = home_body(&status(Some("<script>1</script>"), "\"'&"), false, false);
        assert!(!body.contains("<script>"));
        assert!(body.contains("&lt;script&gt;") && body.contains("&quot;&#39;&amp;"));
    }

    #[test]
    fn requests_to_try_carry_the_key_where_one_is_needed_and_over_https_where_the_page_came_so() {
        let open = home_requests(&HeaderMap::new(), false, true);
        assert!(
            open.contains("http://localhost:8000/events \\\n")
                && open.contains("hookpost listen")
                && !open.contains("KEY"),
            "{open}"
        );
        let mut forwarded = HeaderMap::new();
        for (name, value) in
            [("host", "10.0.0.1:8000"), ("x-forwarded-host", "a.example"), ("x-forwarded-proto", "https")]
        {
            forwarded.insert(name, HeaderValue::from_static(value));
        }
        let closed = home_requests(&forwarded, true, false);
        let with_key = closed.matches("Bearer $KEY").count();
        assert_eq!((with_key, closed.matches("curl ").count()), (6, 6), "{closed}");
        assert!(closed.contains("https://a.example/events \\\n"), "{closed}");
        for filled in ["{listen}", "{target}", "{key}", "{server}"] {
            assert!(HOME_REQUESTS.contains(filled) && !open.contains(filled) && !closed.contains(filled), "{filled}");
        }
    }

    #[test]
    fn the_metrics_are_linked_to_only_where_a_browser_can_see_them() {
        assert!(home_links(false).contains("/metrics") && !home_links(true).contains("/metrics"));
    }

    #[test]
    fn a_page_allows_its_own_style_and_no_script() {
        let response = page("t", "");
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("script-src") && policy.contains("frame-ancestors 'none'"));
        assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }

    #[test]
    fn the_docs_load_our_document_and_nothing_from_elsewhere() {
        let config = Arc::new(Config::from("../openapi.json").validator_url("none"));
        let file = |name: &str| utoipa_swagger_ui::serve(name, config.clone()).unwrap().unwrap().bytes.into_owned();
        let start = String::from_utf8(file("swagger-initializer.js")).unwrap();
        assert!(start.contains("../openapi.json"), "{start}");
        let index = String::from_utf8(file("")).unwrap();
        assert!(!index.contains("http://") && !index.contains("https://"), "{index}");
        assert_eq!(docs("/docs", "", &config).unwrap().headers()[header::LOCATION], "/docs/");
        assert!(docs("/docs/../x", "../x", &config).is_err());
    }

    #[test]
    fn every_kind_of_problem_has_a_page() {
        assert!(Kind::ALL.iter().all(|kind| problem_page(kind.name()).is_ok()));
        assert!(problem_page("<b>").is_err());
    }
}
