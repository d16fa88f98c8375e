//! The program as a shell sees it: what it prints, and its exit status.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

/// The program in an empty environment, which is not that of whoever runs the tests.
fn hookpost(arguments: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookpost"));
    command.args(arguments).env_clear().envs(env.iter().copied()).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = hookpost(arguments, env).output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// A service over a store of its own, and its log.
struct Service {
    child: Child,
    /// Until somebody else reads it.
    log: Option<BufReader<ChildStderr>>,
    addr: String,
    home: tempfile::TempDir,
}

impl Service {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), &["--dev"], &[])
    }

    fn start_in(home: tempfile::TempDir, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let mut env = env.to_vec();
        env.extend([("HOOKPOST_LOG_FORMAT", "json"), ("HOOKPOST_ATTEMPT_TIMEOUT", "30s")]);
        let mut command = hookpost(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat(), &env);
        command.env("HOOKPOST_DATA_DIR", home.path()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let log = Some(BufReader::new(child.stderr.take().expect("its log")));
        let mut service = Self { child, log, addr: String::new(), home };
        let line = service.logged("hookpost listens");
        service.addr = line["url"].as_str().expect("a URL").replace("http://", "");
        service
    }

    /// Reads the log up to the line with this message.
    fn logged(&mut self, message: &str) -> serde_json::Value {
        let mut line = String::new();
        let log = self.log.as_mut().expect("nobody else reads it");
        while log.read_line(&mut line).expect("a line") > 0 {
            let event: serde_json::Value = serde_json::from_str(&line).expect("one JSON object a line");
            if event["message"].as_str().is_some_and(|said| said.starts_with(message)) {
                return event;
            }
            line.clear();
        }
        panic!("it ended without saying {message:?}")
    }

    /// Reads the rest of the log while it is written: a service whose log nobody reads waits.
    fn rest_of_log(&mut self) -> std::thread::JoinHandle<String> {
        let mut log = self.log.take().expect("nobody else reads it");
        std::thread::spawn(move || {
            let mut text = String::new();
            log.read_to_string(&mut text).expect("text");
            text
        })
    }

    fn post(&self, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.addr).expect("it listens");
        let (addr, length) = (&self.addr, body.len());
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all((head + body).as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn alone_it_prints_its_help() {
    let (code, out, error) = run(&[], &[]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.contains("hookpost serve --dev"), "{out}");
}

#[test]
fn a_wrong_command_line_or_configuration_exits_with_2_and_says_why_in_one_line() {
    assert_eq!(run(&["serve", "--lissten", "x"], &[]).0, Some(2));
    for (env, said) in [
        (("HOOKPOST_RETENTION", "1s"), "retention (environment variable HOOKPOST_RETENTION) is \"1s\""),
        (("HOOKPOST_AUTH", "none"), "expected keys, off, or nothing"),
        (("HOOKPOST_CONFIG", "/nowhere/hookpost.toml"), "/nowhere/hookpost.toml cannot be read"),
    ] {
        let (code, out, error) = run(&["serve"], &[env]);
        assert_eq!((code, out.as_str(), error.lines().count()), (Some(2), "", 1), "{error}");
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn the_configuration_is_shown_without_its_secrets() {
    let env = [("DATABASE_URL", "postgres://app:hunter2@db/app"), ("HOOKPOST_LISTEN", "0.0.0.0:80")];
    for arguments in [&["config"][..], &["config", "--json"]] {
        let (code, out, _) = run(arguments, &env);
        assert!(code == Some(0) && out.contains("postgres://app:***@db/app") && !out.contains("hunter2"), "{out}");
    }
}

#[test]
fn a_port_that_is_taken_exits_with_1_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let home = tempfile::tempdir().expect("a directory");
    let data_dir = home.path().to_str().expect("text");
    let (code, _, error) = run(&["serve", "--listen", &addr, "--data-dir", data_dir], &[("HOOKPOST_AUTH", "off")]);
    assert_eq!(code, Some(1));
    assert!(error.lines().last().is_some_and(|line| line.contains(&format!("cannot listen on {addr}"))), "{error}");
}

#[test]
fn a_ready_service_is_healthy_and_a_stopped_one_is_not() {
    let mut service = Service::start();
    assert_eq!(run(&["healthcheck", "--listen", &service.addr], &[]).0, Some(0));
    service.signal("-INT");
    assert_eq!(service.child.wait().expect("a status").code(), Some(0));
    let (code, _, error) = run(&["healthcheck", "--listen", &service.addr], &[]);
    assert!(code == Some(1) && error.contains("no service answers"), "{error}");
}

#[test]
fn a_new_master_key_is_one_line_that_the_configuration_takes() {
    let (code, key, _) = run(&["keys", "new-master"], &[]);
    assert!(code == Some(0) && key.trim().len() == 44 && key.ends_with('\n'), "{key}");
    let (code, text, error) = run(&["config"], &[("HOOKPOST_MASTER_KEY", key.trim())]);
    assert_eq!(code, Some(0), "{error}");
    assert!(text.contains("environment variable HOOKPOST_MASTER_KEY") && !text.contains(key.trim()), "{text}");
    let (_, other, _) = run(&["keys", "new-master"], &[]);
    assert_ne!(key, other);
}

#[test]
fn rotate_master_says_what_it_did_or_what_it_needs() {
    let home = tempfile::tempdir().expect("a directory");
    let data_dir = ("HOOKPOST_DATA_DIR", home.path().to_str().expect("text"));
    let (code, _, error) = run(&["keys", "rotate-master"], &[data_dir]);
    assert!(code == Some(1) && error.contains("set HOOKPOST_MASTER_KEY"), "{error}");
    let file = home.path().join("master.keys");
    let (_, key, _) = run(&["keys", "new-master"], &[]);
    std::fs::write(&file, &key).expect("a file");
    let by_file = ("HOOKPOST_MASTER_KEY_FILE", file.to_str().expect("text"));
    let (code, text, error) = run(&["keys", "rotate-master"], &[data_dir, by_file]);
    assert!(code == Some(0) && text.contains("of 0 subscriptions"), "{text}{error}");
    assert!(!error.contains(key.trim()) && !text.contains(key.trim()));
}

#[test]
fn a_second_signal_ends_a_stop_that_waits_for_a_receiver() {
    let mut service = Service::start();
    let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", receiver.local_addr().expect("an address"));
    let created = service.post("/subscriptions", &format!(r#"{{"target_url":"{url}"}}"#));
    assert!(created.starts_with("HTTP/1.1 201"), "{created}");
    assert!(service.post("/ingest/1", "{}").starts_with("HTTP/1.1 202"));
    // In flight from here on: the receiver takes the connection and never answers.
    let _hanging = receiver.accept().expect("the attempt");
    service.signal("-TERM");
    service.logged("stopping");
    service.signal("-TERM");
    // Had it waited for the attempt, it would have stopped with 0.
    assert_eq!(service.child.wait().expect("a status").code(), Some(128 + 15));
}

/// What the service there answers to whoever shows this key.
fn get(addr: &str, path: &str, key: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Runs `hookpost keys` on the store in a directory; what it prints, and what it says besides.
fn keys(home: &tempfile::TempDir, arguments: &[&str]) -> (Option<i32>, String, String) {
    let data_dir = home.path().to_str().expect("text");
    run(&[&["keys"], arguments, &["--data-dir", data_dir]].concat(), &[])
}

#[test]
fn the_first_key_is_printed_alone_and_only_once() {
    let home = tempfile::tempdir().expect("a directory");
    let (code, out, said) = keys(&home, &["list"]);
    assert!(code == Some(0) && out.is_empty() && said.contains("keys create --admin"), "{out}{said}");
    let (code, out, said) = keys(&home, &["create", "--admin"]);
    let key = out.strip_suffix('\n').expect("a line");
    assert!(code == Some(0) && key.starts_with("hp_") && !key.contains(char::is_whitespace), "{out}");
    assert!(said.contains("of role admin") && !said.contains(key), "{said}");
    let (_, listed, _) = keys(&home, &["list"]);
    assert!(listed.contains(&key[3..13]) && listed.contains("of role admin") && !listed.contains(key), "{listed}");

    let create = ["create", "--name", "acme", "--role", "tenant", "--tenant", "acme", "--expires-in", "90d", "--json"];
    let made: serde_json::Value = serde_json::from_str(&keys(&home, &create).1).expect("JSON");
    assert!(made["key"].is_string() && made["tenant"] == "acme" && made["expires_at"].is_string(), "{made}");
    let listed: Vec<serde_json::Value> = serde_json::from_str(&keys(&home, &["list", "--json"]).1).expect("JSON");
    assert!(listed.len() == 2 && listed.iter().all(|row| row.get("key").is_none()), "{listed:?}");
}

#[test]
fn a_key_that_cannot_be_made_or_revoked_says_why() {
    let home = tempfile::tempdir().expect("a directory");
    for (arguments, code, said) in [
        (&["create", "--name", "acme", "--role", "tenant"][..], 2, "--tenant is nothing; expected the tenant"),
        (&["create", "--name", "acme", "--role", "root"], 2, "\"root\" is no role"),
        (&["create", "--name", "acme", "--role", "reader", "--expires-in", "1s"], 2, "--expires-in is 1s"),
        (&["create"], 2, "--role"),
        (&["revoke", "hp_0123456_hunter2"], 2, "expected a key or its prefix"),
        (&["revoke", "0123456789"], 1, "there is no key 0123456789"),
    ] {
        let (found, out, error) = keys(&home, arguments);
        assert!(found == Some(code) && out.is_empty() && error.contains(said), "{arguments:?}: {error}");
        assert!(!error.contains("hunter2"), "what was given may be most of a key: {error}");
    }
}

#[test]
fn api_keys_are_revoked_beside_a_running_service_and_nothing_of_them_is_stored_or_logged() {
    let home = tempfile::tempdir().expect("a directory");
    let (_, admin, _) = keys(&home, &["create", "--admin"]);
    let (_, reader, _) = keys(&home, &["create", "--name", "dashboard", "--role", "reader"]);
    let (admin, reader) = (admin.trim().to_owned(), reader.trim().to_owned());
    let mut service = Service::start_in(home, &[], &[("HOOKPOST_LOG", "trace")]);
    let log = service.rest_of_log();
    let get = |path: &str, key: &str| get(&service.addr, path, key);
    assert!(get("/subscriptions", "hunter2").starts_with("HTTP/1.1 401"));
    assert!(get("/subscriptions", &reader).starts_with("HTTP/1.1 200"));
    let (code, _, said) = keys(&service.home, &["revoke", &reader]);
    assert!(code == Some(0) && said.contains("is revoked") && !said.contains(&reader[14..]), "{said}");
    assert!(!said.contains("No admin's"), "{said}");
    let revoked = std::time::Instant::now();
    loop {
        let asked_after = revoked.elapsed();
        if get("/subscriptions", &reader).starts_with("HTTP/1.1 401") {
            break;
        }
        assert!(asked_after.as_millis() <= 1000, "still let in {asked_after:?} after the revocation");
    }
    assert!(get("/keys", &admin).starts_with("HTTP/1.1 200"));
    let (code, _, said) = keys(&service.home, &["revoke", &admin[3..13]]);
    assert!(code == Some(0) && said.contains("No admin's key is left"), "{said}");
    service.signal("-TERM");
    let log = log.join().expect("it was read");
    assert!(log.contains(&reader[3..13]), "its prefix says in the log which key was refused: {log}");
    let secrets = [&admin, &reader].map(|key| key[14..].to_owned());
    assert!(secrets.iter().all(|secret| !log.contains(secret)));
    for entry in std::fs::read_dir(service.home.path()).expect("the data") {
        let path = entry.expect("a file").path();
        let bytes = std::fs::read(&path).expect("bytes");
        let holds = |secret: &String| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!secrets.iter().any(holds), "{}", path.display());
    }
}

/// What `hookpost doctor` finds: the verdict and the words on each check.
fn doctor(env: &[(&str, &str)]) -> (Option<i32>, std::collections::BTreeMap<String, (String, String)>) {
    let (code, out, error) = run(&["doctor", "--json"], env);
    let findings: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap_or_else(|_| panic!("JSON: {out}{error}"));
    let text = |finding: &serde_json::Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let said = |finding: &serde_json::Value| format!("{}; {}", text(finding, "found"), text(finding, "todo"));
    (code, findings.iter().map(|f| (text(f, "check"), (text(f, "verdict"), said(f)))).collect())
}

#[test]
fn the_doctor_looks_before_the_first_start_and_makes_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    let (code, found) = doctor(&[("HOOKPOST_DATA_DIR", data.to_str().expect("text"))]);
    assert_eq!(code, Some(1), "{found:?}");
    let failed: Vec<_> =
        found.iter().filter(|(_, (verdict, _))| verdict == "fail").map(|(check, _)| &**check).collect();
    assert_eq!(failed, ["API keys"], "what `serve` refuses to start without: {found:?}");
    assert_eq!(found["master key"].0, "warn", "{found:?}");
    let checks = ["configuration", "store", "disk space", "redis", "file descriptors", "targets", "https", "exposure"];
    assert!(checks.iter().all(|check| found.contains_key(*check)), "{found:?}");
    assert!(found["store"].0 == "ok" && found["store"].1.contains("no store") && !data.exists(), "{found:?}");
    let (code, found) = doctor(&[("HOOKPOST_DATA_DIR", data.to_str().expect("text")), ("HOOKPOST_AUTH", "off")]);
    assert_eq!((code, found["API keys"].0.as_str()), (Some(0), "ok"), "{found:?}");
}

#[test]
fn the_doctor_tells_of_an_address_that_is_taken_and_of_a_collector_that_is_not_there() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = taken.local_addr().expect("an address").to_string();
    // Bound and not listening, it refuses connections and is nobody else's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _guard = runtime.enter();
    let gone = tokio::net::TcpSocket::new_v4().expect("a socket");
    gone.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let collector = format!("http://{}", gone.local_addr().expect("an address"));
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path().to_str().expect("text");
    let env = [("HOOKPOST_DATA_DIR", home), ("HOOKPOST_LISTEN", &listen), ("HOOKPOST_OTLP_ENDPOINT", &collector)];
    let (_, found) = doctor(&env);
    assert!(found["address"].1.contains("is taken"), "{found:?}");
    assert!(found["collector"].0 == "warn" && found["collector"].1.contains("HOOKPOST_OTLP_ENDPOINT"), "{found:?}");
    let (_, found) = doctor(&[("HOOKPOST_DATA_DIR", home), ("HOOKPOST_LISTEN", "127.0.0.1:0")]);
    assert!(found["address"].1.contains("is free"), "{found:?}");
}

#[test]
fn the_doctor_sees_a_running_service_beside_it_and_whose_keys_are_missing() {
    let service = Service::start();
    let home = service.home.path().to_str().expect("text").to_owned();
    let (code, found) = doctor(&[("HOOKPOST_DATA_DIR", &home)]);
    assert_eq!(code, Some(1), "{found:?}");
    for (check, verdict, said) in [
        ("store", "ok", "SQLite"),
        ("schema", "ok", "up to date"),
        ("store writes", "ok", "taken back"),
        ("store owner", "ok", "delivers from it"),
        ("clock", "ok", ""),
        ("master key", "warn", "keys new-master"),
        ("API keys", "fail", "keys create --admin"),
    ] {
        let (found, words) = &found[check];
        assert!(found == verdict && words.contains(said), "{check}: {found} {words}");
    }
    let (code, out, _) = run(&["doctor"], &[("HOOKPOST_DATA_DIR", &home), ("HOOKPOST_AUTH", "off")]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.lines().all(|line| ["ok  ", "warn"].contains(&&line[..4])), "{out}");
}

#[test]
fn the_doctor_says_what_does_not_answer_and_shows_no_password() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let database = format!("postgres://app:hunter2@{gone}/app");
    let redis = format!("redis://:hunter2@{gone}");
    let env = [("DATABASE_URL", database.as_str()), ("REDIS_URL", redis.as_str())];
    let (code, found) = doctor(&env);
    assert_eq!((code, found["store"].0.as_str(), found["redis"].0.as_str()), (Some(1), "fail", "fail"), "{found:?}");
    assert!(found["store"].1.contains("DATABASE_URL") && found["redis"].1.contains("REDIS_URL"), "{found:?}");
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
    let (code, found) = doctor(&[("HOOKPOST_RETENTION", "1s")]);
    assert!(code == Some(1) && found["configuration"].1.contains("HOOKPOST_RETENTION"), "{found:?}");
}
