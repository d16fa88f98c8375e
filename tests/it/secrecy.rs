//! No secret leaves through the back: the program at its most talkative, and then everything that it has written or said,
//! searched for every secret in every spelling.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fred::prelude::{Builder as RedisBuilder, ClientLike, Config as RedisConfig, HashesInterface};
use fred::types::CustomCommand;
use hmac::{Hmac, KeyInit, Mac};
use hookpost::delivery::SubscriptionId;
use hookpost::store::{PostgresStore, SqliteStore, Store};
use hookpost::vault::{MasterKey, Owner, Purpose, Vault};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::app::{Answer, Backend, Builder, Home, client, on_both_stores, send, test_url};
use crate::receiver::{PATIENCE, Receiver, Script};

on_both_stores!(
    secrets_at_rest_in_logs_answers_errors_metrics_are_found_nowhere,
    the_same_search_finds_a_secret_that_was_not_sealed,
);

/// Obviously made up, and like nothing else that is written.
const GIVEN: &str = "hunter2-hunter2-given";
const ROTATED: &str = "hunter2-hunter2-rotated";
const REFUSED: &str = "hunter2-hunter2-refused";

/// The program in production, as talkative as it gets.
struct Talkative {
    child: Child,
    base: String,
    said: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Talkative {
    async fn start(home: &Home, redis: &str, master_key: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hookpost"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env_clear()
            .env("HOOKPOST_DATA_DIR", home.data_dir())
            .env("HOOKPOST_MASTER_KEY", master_key)
            .env("HOOKPOST_ALLOW_TARGETS", "127.0.0.0/8")
            .env("HOOKPOST_AUTH", "off")
            .env("HOOKPOST_RETRY_SCHEDULE", "10ms")
            .env("HOOKPOST_LOG", "hookpost=trace")
            .env("REDIS_URL", redis)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command.envs(home.database_url().map(|url| ("DATABASE_URL", url)));
        let mut child = command.spawn().expect("the program starts");
        let (said, listens) = (Arc::new(Mutex::new(String::new())), Arc::new(Notify::new()));
        let readers = vec![
            listen_to(child.stdout.take().expect("its output"), &said, &listens),
            listen_to(child.stderr.take().expect("its log"), &said, &listens),
        ];
        let base = async {
            loop {
                listens.notified().await;
                let text = said.lock().expect("unpoisoned");
                let url = text.split_whitespace().find(|word| word.starts_with("http://127.0.0.1:"));
                if let Some(url) = url {
                    return url.to_owned();
                }
            }
        };
        let base = tokio::time::timeout(PATIENCE, base).await.expect("it listens in time");
        Self { child, base, said, readers }
    }

    /// Stops it as an operator does; all that it has said.
    async fn stop(mut self) -> String {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill runs").success());
        let exit = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it exits in time");
        assert_eq!(exit.expect("a status").code(), Some(0));
        for reader in self.readers {
            reader.await.expect("it ends");
        }
        self.said.lock().expect("unpoisoned").clone()
    }
}

fn listen_to(
    output: impl AsyncRead + Unpin + Send + 'static,
    said: &Arc<Mutex<String>>,
    heard: &Arc<Notify>,
) -> JoinHandle<()> {
    let (said, heard) = (said.clone(), heard.clone());
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut said = said.lock().expect("unpoisoned");
            said.push_str(&line);
            said.push('\n');
            heard.notify_one();
        }
    })
}

/// A caller who keeps every answer that should hold no secret.
struct Caller {
    base: String,
    answers: String,
}

impl Caller {
    /// An answer that is meant to show a secret; it is not kept.
    async fn shown(&self, method: Method, path: &str, body: &str) -> Answer {
        send(client().request(method, format!("{}{path}", self.base)).body(body.to_owned())).await
    }

    async fn call(&mut self, method: Method, path: &str, body: &str) -> Answer {
        let answer = self.shown(method, path, body).await;
        self.answers.push_str(&format!("{answer:?}\n{}\n", answer.text));
        answer
    }

    async fn ingest(&mut self, id: i64, secret: &str, body: &str) -> Answer {
        let code = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length").chain_update(body).finalize();
        let request = client().post(format!("{}/ingest/{id}", self.base)).body(body.to_owned());
        let signature = format!("sha256={}", hex::encode(code.into_bytes()));
        let answer = send(request.header("X-Hub-Signature-256", signature)).await;
        self.answers.push_str(&format!("{answer:?}\n"));
        answer
    }
}

async fn secrets_at_rest_in_logs_answers_errors_metrics_are_found_nowhere(backend: Backend) {
    let (home, redis) = (Home::new(backend).await, test_url("TEST_REDIS_URL"));
    let master_key = MasterKey::generate();
    let master_text = master_key.to_base64();
    let program = Talkative::start(&home, &redis, master_text.expose_secret()).await;
    let mut caller = Caller { base: program.base.clone(), answers: String::new() };
    // What is made before that is not copied at once.
    let connected = async {
        while !caller.shown(Method::GET, "/readyz", "").await.text.contains("redis: connected") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.expect("Redis is connected in time");
    let mut receiver = Receiver::start([Script::Status(500), Script::Status(500), Script::Status(500)]).await;

    let mut secrets = do_everything(&mut caller, &mut receiver).await;
    let running = home.dump().await;
    let copies = redis_dump(&redis, &store_identity(&home).await).await;
    let said = program.stop().await;
    let stopped = home.dump().await;
    let seed = ed25519_seed(&home, master_key).await;
    secrets.insert("the ed25519 seed", BASE64.decode(&seed).expect("base64"));
    secrets.insert("the master key", BASE64.decode(master_text.expose_secret()).expect("base64"));

    let answers = caller.answers.as_bytes();
    let places: [(&str, &[u8]); 5] = [
        ("store", &running),
        ("stopped store", &stopped),
        ("Redis", copies.as_bytes()),
        ("log", said.as_bytes()),
        ("answers", answers),
    ];
    for (place, found) in places {
        for (name, secret) in &secrets {
            assert!(!holds(found, secret), "{name} is in the {place}");
        }
        // The search looks at what is really there.
        let known = if place == "log" { "attempt failed; it will be retried" } else { &receiver.url() };
        assert!(contains(found, known.as_bytes()), "{known} is not in the {place}");
    }
    for found in [&running, &stopped, copies.as_bytes()] {
        assert!(contains(found, b"whpk_") && contains(found, b"sealed:"));
    }
    assert!(contains(answers, b"hookpost_") && contains(answers, b"signature-wrong"));
}

/// Creates, rotates, delivers, fails, looks at everything and gets a lot wrong. Returns the secrets that were used.
async fn do_everything(caller: &mut Caller, receiver: &mut Receiver) -> BTreeMap<&'static str, Vec<u8>> {
    let url = receiver.url();
    let given = json!({ "target_url": url, "secret": GIVEN }).to_string();
    caller.call(Method::POST, "/subscriptions", &given).await.expect(201);
    let made = json!({ "target_url": url, "generate_secret": true, "ed25519": true }).to_string();
    let made = caller.shown(Method::POST, "/subscriptions", &made).await.expect(201);
    let made = made["secret"].as_str().expect("a secret").to_owned();

    let accepted = caller.ingest(1, GIVEN, "{\"n\":1}").await.expect(202);
    caller.ingest(2, &made, "{\"n\":2}").await.expect(202);
    caller.ingest(1, REFUSED, "{\"n\":3}").await.expect(401);
    caller.call(Method::POST, "/ingest/1", "{}").await.expect(401);
    let rotated = json!({ "secret": ROTATED }).to_string();
    caller.call(Method::POST, "/subscriptions/1/secret/rotate", &rotated).await.expect(200);
    let again = caller.shown(Method::POST, "/subscriptions/2/secret/rotate", "").await.expect(200);
    let again = again["secret"].as_str().expect("a secret").to_owned();
    let shown = caller.shown(Method::GET, "/subscriptions/2/secret", "").await.expect(200);
    assert_eq!((&shown["secret"], &shown["previous_secret"]), (&json!(again), &json!(made)));
    caller.ingest(1, GIVEN, "{\"n\":4}").await.expect(202);
    let event = json!({ "event_type": "order.created", "payload": { "n": 5 } }).to_string();
    caller.call(Method::POST, "/events", &event).await.expect(202);

    for body in [
        json!({ "target_url": url, "secret": [REFUSED] }).to_string(),
        json!({ "target_url": url, "secret": REFUSED.repeat(20) }).to_string(),
        json!({ "target_url": url, "sekret": REFUSED }).to_string(),
        json!({ "target_url": url, "secret": REFUSED, "generate_secret": true }).to_string(),
        format!("{{\"secret\":\"{REFUSED}\","),
    ] {
        caller.call(Method::POST, "/subscriptions", &body).await.expect(400);
        caller.call(Method::PATCH, "/subscriptions/1", &body).await.expect(400);
        caller.call(Method::PUT, "/subscriptions/1", &body).await.expect(400);
        caller.call(Method::POST, "/subscriptions/1/secret/rotate", &body).await.expect(400);
    }
    // Both subscriptions, three attempts that fail, each tried again; and the fan-out.
    for _ in 0..5 {
        receiver.next().await;
    }
    let delivery = accepted["delivery_id"].as_str().expect("an id");
    for path in [
        "/subscriptions",
        "/subscriptions/1",
        "/subscriptions/2",
        "/subscriptions/2/public-key",
        "/subscriptions/1/state",
        "/subscriptions/1/changes",
        "/subscriptions/1/logs",
        &format!("/status/{delivery}"),
        &format!("/deliveries/{delivery}/explain"),
        "/metrics",
        "/readyz",
        "/",
    ] {
        caller.call(Method::GET, path, "").await;
    }
    let decoded = |secret: &str| BASE64.decode(secret.trim_start_matches("whsec_")).expect("base64");
    BTreeMap::from([
        ("the secret that was given", GIVEN.into()),
        ("the secret that replaced it", ROTATED.into()),
        ("a secret that was refused", REFUSED.into()),
        ("the key of a secret that was made", decoded(&made)),
        ("the key of another one", decoded(&again)),
        ("a secret that was made", made.into_bytes()),
        ("another one", again.into_bytes()),
    ])
}

/// Raw, in hex, and in base64 wherever it may begin in what was encoded.
fn holds(found: &[u8], secret: &[u8]) -> bool {
    let spellings = (0..3).map(|before| {
        let encoded = BASE64.encode([&vec![0; before], secret].concat());
        // The characters at the ends depend on what is beside it.
        let (start, end) = ((before * 8).div_ceil(6), encoded.trim_end_matches('=').len() - 1);
        encoded[start..end].to_owned()
    });
    let mut spellings = spellings.chain([hex::encode(secret), hex::encode_upper(secret)]);
    contains(found, secret) || spellings.any(|spelling| contains(found, spelling.as_bytes()))
}

fn contains(found: &[u8], wanted: &[u8]) -> bool {
    found.windows(wanted.len()).any(|window| window == wanted)
}

async fn the_same_search_finds_a_secret_that_was_not_sealed(backend: Backend) {
    let app = Builder::new(backend).await.master_keys(vec![]).start().await;
    let fields = json!({ "target_url": "http://127.0.0.1:9/", "secret": GIVEN });
    app.post("/subscriptions", fields).await.expect(201);
    assert!(holds(&app.home.dump().await, GIVEN.as_bytes()));
}

#[test]
fn every_spelling_is_found() {
    let secret = b"hunter2-hunter2";
    for before in ["", "x", "xy", "xyz"] {
        for after in ["", "x", "xy"] {
            let around = [before.as_bytes(), secret, after.as_bytes()].concat();
            let spelled = [BASE64.encode(&around), hex::encode(&around), hex::encode_upper(&around)];
            assert!(spelled.iter().all(|text| holds(text.as_bytes(), secret)), "{spelled:?}");
        }
    }
    assert!(!holds(b"hunter2-hunter3", secret));
}

fn open(home: &Home) -> Arc<dyn Store> {
    match home.database_url() {
        Some(url) => Arc::new(PostgresStore::connect(&SecretString::from(url)).expect("a URL")),
        None => Arc::new(SqliteStore::open(&home.data_dir()).expect("a directory")),
    }
}

async fn store_identity(home: &Home) -> String {
    let store = open(home);
    let identity = store.identity().await.expect("an identity");
    store.close().await;
    identity.to_string()
}

/// Of the second subscription, in base64: the test has the master key.
async fn ed25519_seed(home: &Home, master_key: MasterKey) -> String {
    let store = open(home);
    let subscription = store.subscription(SubscriptionId(2)).await.expect("it answers").expect("it is there");
    store.close().await;
    let secrets = subscription.secrets.as_ref().expect("secrets");
    let seed = &secrets.ed25519.as_ref().expect("a key").seed;
    let vault = Vault::new(vec![master_key], false);
    let seed = vault.open(seed, Purpose::Ed25519Seed, Owner::from(&subscription)).expect("it opens");
    seed.expose_secret().to_owned()
}

/// All that Redis holds of the store, which is hashes.
async fn redis_dump(url: &str, store: &str) -> String {
    let config = RedisConfig::from_url(url).expect("a URL");
    let redis = RedisBuilder::from_config(config).build().expect("a client");
    redis.init().await.expect("it answers");
    let command = CustomCommand::new_static("KEYS", None, false);
    let keys: Vec<String> = redis.custom(command, vec![format!("hookpost:{store}:*")]).await.expect("keys");
    let mut dump = String::new();
    for key in keys {
        let fields: BTreeMap<String, String> = redis.hgetall(&key).await.expect("a hash");
        dump.push_str(&format!("{key} {}\n", fields.into_values().collect::<Vec<_>>().join(" ")));
    }
    redis.quit().await.expect("it ends");
    dump
}
