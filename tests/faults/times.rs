//! How long an event takes from its acknowledgement to its receiver, at an even pace.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::peer::Peer;
use crate::site::{ANSWER_PATIENCE, Site, client};

/// Between two events.
const PACE: Duration = Duration::from_millis(8);
/// Before the first one that counts: connections are made, names are looked up.
const WARM_UP: usize = 20;

/// The 99th percentile of `count` events for this subscription, whose receiver gets nothing else.
pub async fn p99(site: &Site, subscription: i64, peer: &Peer, count: usize) -> Duration {
    let (client, url) = (client(ANSWER_PATIENCE), format!("{}/ingest/{subscription}", site.base()));
    let (before, mut acked) = (peer.count(), BTreeMap::new());
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 0..WARM_UP + count {
        pace.tick().await;
        let answer = client
            .post(&url)
            .header("event_type", "order.created")
            .body(json!({ "n": n }).to_string())
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 202);
        let text = answer.text().await.expect("a body");
        let accepted: Value = serde_json::from_str(&text).expect("JSON");
        let id = accepted["delivery_id"].as_str().expect("an id").to_owned();
        if n >= WARM_UP {
            acked.insert(id, Instant::now());
        }
    }
    let arrived = peer.after(before + WARM_UP + count).await;
    let took = |id: &str, at: Instant| acked.get(id).map(|acked| at.saturating_duration_since(*acked));
    let mut times: Vec<_> = arrived.iter().filter_map(|arrived| took(arrived.id(), arrived.at)).collect();
    times.sort();
    times[times.len() * 99 / 100]
}

pub fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
