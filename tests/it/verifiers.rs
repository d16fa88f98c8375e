//! Libraries that others wrote, as a receiver uses them: Python's `standardwebhooks` and PyNaCl (tests/verify.py), and the
//! crate `standardwebhooks`.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::receiver::Receipt;

/// What a receiver has been given.
#[derive(Clone, Copy, Default)]
pub struct Knows<'a> {
    pub secret: Option<&'a str>,
    pub public_key: Option<&'a str>,
}

impl<'a> Knows<'a> {
    pub fn secret(secret: &'a str) -> Self {
        Self { secret: Some(secret), public_key: None }
    }

    /// The receipt as tests/verify.py reads it.
    pub fn question(self, receipt: &Receipt) -> Value {
        let header = |name: &str| (name.to_owned(), Value::from(receipt.header(name)));
        let headers = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(header);
        let body = std::str::from_utf8(&receipt.body).expect("JSON");
        let mut question = json!({ "headers": serde_json::Map::from_iter(headers), "body": body });
        for (name, value) in [("secret", self.secret), ("public_key", self.public_key)] {
            if let Some(value) = value {
                question[name] = value.into();
            }
        }
        question
    }
}

/// What Python's libraries say of each.
pub async fn ask_python(questions: &[Value]) -> Vec<Value> {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut python = Command::new(format!("{root}/target/verifiers/bin/python"))
        .arg(format!("{root}/tests/verify.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("tests/prerequisites.sh makes target/verifiers");
    let lines: String = questions.iter().map(|question| format!("{question}\n")).collect();
    let mut stdin = python.stdin.take().expect("its input");
    let (written, answered) = tokio::join!(
        async {
            let written = stdin.write_all(lines.as_bytes()).await;
            drop(stdin);
            written
        },
        python.wait_with_output()
    );
    written.expect("it reads");
    let output = answered.expect("its output");
    assert!(output.status.success(), "tests/verify.py failed");
    let text = String::from_utf8(output.stdout).expect("text");
    let answers: Vec<_> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), questions.len());
    answers
}

/// Fails unless every library accepts every receipt as genuine.
#[track_caller]
pub fn assert_all_ok(answers: &[Value]) {
    for answer in answers {
        let verdicts = answer.as_object().expect("an object");
        assert!(!verdicts.is_empty() && verdicts.values().all(|verdict| verdict == "ok"), "{answers:?}");
    }
}

/// Whether the crate accepts it.
pub fn crate_accepts(receipt: &Receipt, secret: &str) -> bool {
    let webhook = standardwebhooks::Webhook::new(secret).expect("a secret");
    webhook.verify(&receipt.body, &receipt.headers).is_ok()
}
