//! The pages as a browser shows them, under the policies that they are served with.

use std::io::{ErrorKind, Write as _};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::app::{App, Backend, Builder};

/// The same browser under the names that systems give it.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// A page takes about 3 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of its own clock, which skips what nothing happens in, how long a page may take to come to rest.
const PAGE_MS: u32 = 30_000;
/// Breaks its own policy.
const BROKEN: &str =
    "data:text/html,<meta http-equiv=\"Content-Security-Policy\" content=\"script-src 'none'\"><script>1</script>";

/// What has become of a page.
struct Shown {
    dom: String,
    /// What its console says: errors, and what a policy has kept from it.
    console: Vec<String>,
}

/// Nothing where there is no browser.
async fn show(url: &str) -> Option<Shown> {
    let home = tempfile::tempdir().expect("a temporary directory");
    for browser in BROWSERS {
        // The pages are ours: no sandbox, which root and most containers cannot have.
        let run = Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"])
            .args(["--dump-dom", "--enable-logging=stderr", &format!("--virtual-time-budget={PAGE_MS}")])
            .arg(format!("--user-data-dir={}", home.path().display()))
            .arg(url)
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match tokio::time::timeout(PATIENCE, run).await.expect("it ends in time") {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            output => output.expect("it runs"),
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{browser}: {said}");
        let console = said.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
        return Some(Shown { dom: String::from_utf8_lossy(&output.stdout).into_owned(), console });
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_work_in_a_browser() {
    let Some(broken) = show(BROKEN).await else {
        // Past libtest, which keeps what tests print to itself.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: the pages in a browser. `BROWSER=1 make test` adds Chromium (400 MB)."
        );
        return;
    };
    assert!(broken.console.iter().any(|line| line.contains("Content Security Policy")), "{:?}", broken.console);

    let app = App::start(Backend::Sqlite).await;
    let closed = Builder::new(Backend::Sqlite).await.with_keys().await.start().await;
    let document = app.get("/openapi.json").await.expect(200);
    let paths = document["paths"].as_object().expect("paths");
    let methods = |item: &serde_json::Value| {
        ["get", "put", "post", "patch", "delete"].iter().filter(|name| item.get(name).is_some()).count()
    };
    for app in [&app, &closed] {
        let home = show(&app.url("/")).await.expect("a page");
        assert!(home.dom.contains("Alive and ready") && home.console.is_empty(), "{} {:?}", home.dom, home.console);
    }
    let style = crate::app::send(app.request(reqwest::Method::GET, "/docs/index.css")).await.text;
    assert!(style.contains("box-sizing") && style.contains("Ours, after Swagger UI's own"), "{style}");
    let docs = show(&app.url("/docs")).await.expect("a page");
    assert!(docs.console.is_empty(), "{:?}", docs.console);
    let shown = docs.dom.matches("class=\"opblock opblock-").count();
    assert_eq!(shown, paths.values().map(methods).sum::<usize>(), "{}", docs.dom);
    for path in paths.keys() {
        assert!(docs.dom.contains(&format!("data-path=\"{path}\"")), "{path} is not shown");
    }
}
