//! Targets that lead inside: by range, by spelling, by port, by redirect. A canary on loopback gets no connection.

use serde_json::{Value, json};

use super::canary::Canary;
use super::raw::Raw;
use crate::app::{App, Backend, Builder, on_both_stores};
use crate::receiver::Receiver;

on_both_stores!(
    private_targets_are_refused_from_the_first_to_the_last_address_of_each_range,
    literal_spellings_of_an_address_are_refused,
    urls_that_parsers_read_differently_are_refused_and_credentials_are_not_repeated,
    a_target_that_the_settings_no_longer_allow_is_refused_at_the_attempt,
    redirects_are_not_followed,
);

/// That it is refused with the field named, and what the answer says.
async fn refusal(app: &App, url: &str) -> String {
    let problem = app.post("/subscriptions", json!({ "target_url": url })).await;
    let text = problem.text.clone();
    assert_eq!(problem.expect(400)["errors"][0]["field"], "target_url", "{url}: {text}");
    text
}

/// One event for the subscription, whose only attempt must fail; what its log says.
async fn attempt(app: &App, subscription: i64) -> Value {
    let delivery = app.ingest(subscription, json!({})).await;
    app.status_when(&delivery, "failed").await["attempts"][0].clone()
}

async fn strict(backend: Backend) -> App {
    Builder::new(backend).await.deny_private_targets().schedule("").start().await
}

/// Each range's first and last address, and its public neighbours; one that has none is left out.
const RANGES: [(&str, &str, &[&str]); 25] = [
    ("0.0.0.0", "0.255.255.255", &["1.0.0.0"]),
    ("10.0.0.0", "10.255.255.255", &["9.255.255.255", "11.0.0.0"]),
    ("100.64.0.0", "100.127.255.255", &["100.63.255.255", "100.128.0.0"]),
    ("127.0.0.0", "127.255.255.255", &["126.255.255.255", "128.0.0.0"]),
    ("169.254.0.0", "169.254.255.255", &["169.253.255.255", "169.255.0.0"]),
    ("172.16.0.0", "172.31.255.255", &["172.15.255.255", "172.32.0.0"]),
    ("192.0.0.0", "192.0.0.255", &["191.255.255.255", "192.0.1.0"]),
    ("192.0.2.0", "192.0.2.255", &["192.0.1.255", "192.0.3.0"]),
    ("192.31.196.0", "192.31.196.255", &["192.31.195.255", "192.31.197.0"]),
    ("192.52.193.0", "192.52.193.255", &["192.52.192.255", "192.52.194.0"]),
    ("192.88.99.0", "192.88.99.255", &["192.88.98.255", "192.88.100.0"]),
    ("192.168.0.0", "192.168.255.255", &["192.167.255.255", "192.169.0.0"]),
    ("192.175.48.0", "192.175.48.255", &["192.175.47.255", "192.175.49.0"]),
    ("198.18.0.0", "198.19.255.255", &["198.17.255.255", "198.20.0.0"]),
    ("198.51.100.0", "198.51.100.255", &["198.51.99.255", "198.51.101.0"]),
    ("203.0.113.0", "203.0.113.255", &["203.0.112.255", "203.0.114.0"]),
    ("224.0.0.0", "239.255.255.255", &["223.255.255.255"]),
    ("240.0.0.0", "255.255.255.255", &[]),
    ("168.63.129.16", "168.63.129.16", &["168.63.129.15", "168.63.129.17"]),
    ("[::]", "[1fff:ffff::]", &["[2000::]"]),
    ("[4000::]", "[ffff:ffff::]", &["[3fff:ffff::]"]),
    ("[2001::]", "[2001:1ff:ffff::]", &["[2001:200::]"]),
    ("[2001:db8::]", "[2001:db8:ffff::]", &["[2001:db7:ffff::]", "[2001:db9::]"]),
    ("[2002::]", "[2002:ffff::]", &["[2001:ffff::]", "[2003::]"]),
    ("[3ffe::]", "[3fff:fff::]", &["[3ffd:ffff::]", "[3fff:1000::]"]),
];

async fn private_targets_are_refused_from_the_first_to_the_last_address_of_each_range(backend: Backend) {
    let (app, canary) = (strict(backend).await, Canary::start());
    for (first, last, neighbours) in RANGES {
        for host in [first, last] {
            assert!(refusal(&app, &format!("http://{host}/")).await.contains("HOOKPOST_ALLOW_TARGETS"), "{host}");
        }
        for host in neighbours {
            app.subscribe(&format!("http://{host}/")).await;
        }
    }
    // Whatever embeds an IPv4 address leads to it, and the canary is there.
    let port = canary.addr().port();
    for host in
        ["127.0.0.1", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "localhost"]
    {
        refusal(&app, &format!("http://{host}:{port}/")).await;
    }
    canary.assert_untouched();
}

async fn literal_spellings_of_an_address_are_refused(backend: Backend) {
    // Loopback is allowed: it is the spelling that is refused.
    let app = App::start(backend).await;
    let canary = Canary::start();
    let port = canary.addr().port();
    for host in [
        "0",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "017700000001",
        "127.0.0.01",
        "%31%32%37.0.0.1",
        "127.0.0.1.",
        "localhost.",
        "[::ffff:127.0.0.1].",
        "[::1%25lo]",
        "①②⑦.0.0.1",
    ] {
        refusal(&app, &format!("http://{host}:{port}/")).await;
    }
    let strict = app.stop().await.deny_private_targets().start().await;
    refusal(&strict, &format!("http://[::ffff:127.0.0.1]:{port}/")).await;
    canary.assert_untouched();
}

async fn urls_that_parsers_read_differently_are_refused_and_credentials_are_not_repeated(backend: Backend) {
    let app = App::start(backend).await;
    let canary = Canary::start();
    let inside = canary.addr();
    for url in [
        format!("http://example.com\\@{inside}/"),
        format!("http://{inside}\\@example.com/"),
        format!("http://example.com@{inside}/"),
        format!("http://hunter2:hunter2@{inside}/"),
        format!("http://{inside}#@example.com/"),
        format!("http://example.com#@{inside}/"),
        format!("http://example.com\t@{inside}/"),
        format!("http://exam\tple.com:{}/", inside.port()),
        format!("http://{inside}\r\nhost: example.com/"),
        format!("http://ex\u{e4}mple.com:{}/", inside.port()),
        format!("http://\u{ff4c}ocalhost:{}/", inside.port()),
        format!("http:/\\{inside}/"),
        format!("http:{inside}/"),
        format!("http:///{inside}/"),
    ] {
        let said = refusal(&app, &url).await;
        assert!(!said.contains("hunter2"), "{said}");
    }
    canary.assert_untouched();

    // What is accepted goes where it says, though path and query look like another host.
    let mut receiver = Receiver::start([]).await;
    let id = app.subscribe(&format!("http://{}/@{inside}/?//{inside}", receiver.addr)).await;
    app.ingest(id, json!({})).await;
    assert_eq!(receiver.next().await.header("host"), receiver.addr.to_string());
    canary.assert_untouched();
}

async fn a_target_that_the_settings_no_longer_allow_is_refused_at_the_attempt(backend: Backend) {
    let app = App::start(backend).await;
    let canary = Canary::start();
    let id = app.subscribe(&canary.url()).await;
    let named = app.subscribe("http://hooks.example/").await;

    let port = canary.addr().port();
    let app = app.stop().await.schedule("").configure(|config| config.refused_ports = vec![port]).start().await;
    assert!(refusal(&app, &canary.url()).await.contains("HOOKPOST_REFUSED_PORTS"));
    let tried = attempt(&app, id).await;
    assert!(tried["error_details"].as_str().is_some_and(|said| said.contains("HOOKPOST_REFUSED_PORTS")), "{tried}");

    let strict = app.stop().await.deny_private_targets().configure(|config| config.require_https = true).start().await;
    assert!(refusal(&strict, "http://example.com/").await.contains("HOOKPOST_REQUIRE_HTTPS"));
    strict.subscribe("https://example.com/").await;
    let tried = attempt(&strict, named).await;
    assert!(tried["error_details"].as_str().is_some_and(|said| said.contains("HOOKPOST_REQUIRE_HTTPS")), "{tried}");
    canary.assert_untouched();
}

async fn redirects_are_not_followed(backend: Backend) {
    let app = Builder::new(backend).await.schedule("").start().await;
    let canary = Canary::start();
    for status in [301, 302, 303, 307, 308] {
        let head = format!("HTTP/1.1 {status} There\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", canary.url());
        let receiver = Raw::flooding(head, Vec::new()).await;
        let id = app.subscribe(&receiver.url()).await;
        let tried = attempt(&app, id).await;
        assert_eq!(tried["http_status"], status);
        assert!(tried["error_details"].as_str().is_some_and(|said| said.contains("not followed")), "{tried}");
    }
    canary.assert_untouched();
}
