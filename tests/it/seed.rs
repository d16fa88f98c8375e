//! The seed's `curl` examples, run by `curl` as they stand there; only the port and the receiver's address differ.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::app::{App, Backend, on_both_stores};
use crate::receiver::Receiver;

on_both_stores!(every_curl_example_of_the_seed_works_as_it_stands);

/// Runs a command line in a shell: its answer's status and body.
async fn curl(app: &App, example: &str) -> (u16, Value) {
    let line = example.replace("http://localhost:8000", &app.url(""));
    let shell = format!("{line} --silent --show-error --max-time 20 --write-out '\\n%{{http_code}}'");
    let output = Command::new("sh").args(["-c", &shell]).output().await.expect("a shell with curl");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status line");
    let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect("JSON") };
    (status.parse().expect("a number"), body)
}

async fn every_curl_example_of_the_seed_works_as_it_stands(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;

    let (status, created) = curl(
        &app,
        r#"curl -X POST http://localhost:8000/subscriptions \
-H "Content-Type: application/json" \
-d '{"target_url":"https://webhook.site/your-url","event_type":["order.created"],"secret":"mysecret"}'"#,
    )
    .await;
    assert_eq!((status, &created["id"]), (201, &json!(1)));

    let (status, listed) = curl(&app, "curl http://localhost:8000/subscriptions").await;
    assert_eq!(status, 200);
    assert_eq!(listed[0]["target_url"], "https://webhook.site/your-url");
    assert_eq!(listed[0]["event_type"], json!(["order.created"]));

    let (status, updated) = curl(
        &app,
        r#"curl -X PUT http://localhost:8000/subscriptions/1 \
-H "Content-Type: application/json" \
-d '{"target_url":"https://webhook.site/your-new-url","event_type":["order.updated"]}'"#,
    )
    .await;
    assert_eq!((status, &updated["event_type"]), (200, &json!(["order.updated"])));

    // Back to what the ingest example expects, and to a receiver that is here.
    let here = json!({ "target_url": receiver.url(), "event_type": ["order.created"] });
    app.put("/subscriptions/1", here).await.expect(200);
    let ingest = r#"curl -X POST http://localhost:8000/ingest/1 \
-H "Content-Type: application/json" \
-H "X-Hub-Signature-256: sha256=..." \
-H "event_type: order.created" \
-d '{"order_id":123,"amount":49.99}'"#;
    let (status, _) = curl(&app, ingest).await;
    assert_eq!(status, 401, "three dots are no signature");
    // Computed by others: shared with the vectors of the signing tests.
    let signature = "07f1da34b6ff57da613077d361ed7debaca285d7fed3c05254a2d82822b51d01";
    let (status, accepted) = curl(&app, &ingest.replace("...", signature)).await;
    assert_eq!((status, &accepted["subscription_id"]), (202, &json!(1)));
    let delivery = accepted["delivery_id"].as_str().expect("an id");
    let receipt = receiver.next().await;
    assert_eq!(receipt.body, r#"{"order_id":123,"amount":49.99}"#);
    app.status_when(delivery, "delivered").await;

    let (status, state) = curl(&app, &format!("curl http://localhost:8000/status/{delivery}")).await;
    assert_eq!((status, &state["state"]), (200, &json!("delivered")));
    let (status, logs) = curl(&app, "curl http://localhost:8000/subscriptions/1/logs").await;
    assert_eq!((status, &logs[0]["delivery_id"]), (200, &json!(delivery)));
    assert_eq!(logs[0]["outcome"], "Success");

    let (status, _) = curl(&app, "curl -X DELETE http://localhost:8000/subscriptions/1").await;
    assert_eq!(status, 204);
}
