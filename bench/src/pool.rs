//! The positive control: one pool of workers and one queue for all subscriptions, as most senders have it. A scenario of
//! isolation that this passes would prove nothing.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Url};
use tokio::sync::mpsc;
use warp::Filter;
use warp::http::StatusCode;
use warp::reply::{json, with_status};

/// As in the most used of these senders.
pub const WORKERS: usize = 500;
/// The service's default.
const TIMEOUT: Duration = Duration::from_secs(10);

type Job = (Url, Bytes);

/// Serves until it is killed.
pub async fn run() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .timeout(TIMEOUT)
        .build()?;
    let (queue, jobs) = mpsc::unbounded_channel::<Job>();
    let jobs = Arc::new(tokio::sync::Mutex::new(jobs));
    for _ in 0..WORKERS {
        tokio::spawn(work(client.clone(), jobs.clone()));
    }
    let targets = Arc::new(Mutex::new(Vec::<Url>::new()));
    let known = targets.clone();
    let subscribe = warp::post().and(warp::path!("subscriptions")).and(warp::body::bytes()).map(move |body: Bytes| {
        let mut targets = known.lock().expect("unpoisoned");
        targets.extend(target_url(&body));
        with_status(json(&serde_json::json!({ "id": targets.len() })), StatusCode::CREATED)
    });
    let ingest =
        warp::post().and(warp::path!("ingest" / usize)).and(warp::body::bytes()).then(move |id: usize, body| {
            let target = targets.lock().expect("unpoisoned").get(id.wrapping_sub(1)).cloned();
            let sent = target.is_some_and(|target| queue.send((target, body)).is_ok());
            let status = if sent { StatusCode::ACCEPTED } else { StatusCode::NOT_FOUND };
            async move { Ok::<_, Infallible>(with_status(json(&serde_json::json!({})), status)) }
        });
    // What is queued for it stays queued, as in the model.
    let unsubscribe = warp::delete()
        .and(warp::path!("subscriptions" / usize))
        .map(|_| with_status(json(&serde_json::json!({})), StatusCode::OK));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    warp::serve(ingest.or(subscribe).or(unsubscribe)).incoming(listener).run().await;
    Ok(())
}

async fn work(client: Client, jobs: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Job>>>) {
    loop {
        let Some((target, body)) = jobs.lock().await.recv().await else { return };
        if let Ok(answer) = client.post(target).body(body).send().await {
            let _ = answer.bytes().await;
        }
    }
}

fn target_url(body: &[u8]) -> Option<Url> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body["target_url"].as_str()?.parse().ok()
}
