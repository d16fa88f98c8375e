//! Proxies that the environment names: the real program does not use them.

use serde_json::json;

use super::canary::Canary;
use crate::app::{Backend, Home, client, send};
use crate::process::Process;
use crate::receiver::Receiver;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_in_the_environment_get_no_connection() {
    let canary = Canary::start();
    let proxy = format!("http://{}", canary.addr());
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let process = Process::start_with(&Home::new(Backend::Sqlite).await, &names.map(|name| (name, &*proxy))).await;

    let mut plain = Receiver::start([]).await;
    process.post("/subscriptions", json!({ "target_url": plain.url() })).await;
    process.post("/ingest/1", json!({})).await;
    plain.next().await;

    // Over https the receiver itself is dialled: it is this one that does not speak TLS.
    let secure = format!("https://{}/", plain.addr);
    process.post("/subscriptions", json!({ "target_url": secure })).await;
    process.post("/ingest/2", json!({})).await;
    process.logged(|line| line.contains(&format!("TLS with {} failed", plain.addr))).await;

    assert!(send(client().get(format!("{}/livez", process.base))).await.status.is_success());
    canary.assert_untouched();
}
