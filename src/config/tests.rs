//! What the layers add up to, without touching the process's own environment.

use super::*;

fn env(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> ConfigFile {
    ConfigFile { path: "/etc/hookpost.toml".into(), text: text.to_owned() }
}

fn with_env(variables: &[(&str, &str)]) -> Result<Resolved, ConfigError> {
    resolve(None, &env(variables), &Flags::default())
}

fn with_file(text: &str) -> Result<Resolved, ConfigError> {
    resolve(Some(&file(text)), &env(&[]), &Flags::default())
}

fn dev() -> Flags {
    Flags { dev: true, ..Flags::default() }
}

/// The error, which has to be one line.
fn refusal(resolved: Result<Resolved, ConfigError>) -> String {
    let text = resolved.expect_err("refused").to_string();
    assert!(!text.contains('\n'), "more than one line: {text}");
    text
}

fn setting(resolved: &Resolved, name: &str) -> (String, String) {
    let setting = resolved.settings.iter().find(|setting| setting.name == name).expect("a setting");
    (setting.value.clone(), setting.source.to_string())
}

#[test]
fn nothing_configured_is_the_embedded_store_on_loopback_with_the_documented_defaults() {
    let Resolved { config, settings } = with_env(&[]).expect("defaults");
    assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
    assert!(config.database_url.is_none() && config.redis_url.is_none() && config.auth == Auth::Keys && !config.dev);
    assert_eq!(config.data_dir, Path::new("./data"));
    assert_eq!(config.retry_schedule, RetrySchedule::default());
    assert_eq!((config.attempt_timeout, config.retention), (Duration::from_secs(10), Duration::from_hours(72)));
    assert!(config.allow_targets.is_empty() && config.dns_servers.is_empty());
    assert_eq!((config.log.as_str(), config.log_format), ("info", LogFormat::Pretty));
    assert!(settings.iter().all(|setting| setting.source == Source::Default));
}

#[test]
fn each_layer_goes_over_the_one_before() {
    let file = file("listen = '127.0.0.1:1'\nretention = '2h'\nlog = 'error'\nretry_schedule = ['1s', '2s']");
    let env = env(&[("HOOKPOST_LISTEN", "127.0.0.1:2"), ("HOOKPOST_RETENTION", "3h")]);
    let flags = Flags { listen: Some("127.0.0.1:3".to_owned()), ..dev() };
    let resolved = resolve(Some(&file), &env, &flags).expect("a configuration");
    assert_eq!(setting(&resolved, "listen"), ("127.0.0.1:3".into(), "flag --listen".into()));
    assert_eq!(setting(&resolved, "retention"), ("3h".into(), "environment variable HOOKPOST_RETENTION".into()));
    assert_eq!(setting(&resolved, "log"), ("error".into(), "file /etc/hookpost.toml".into()));
    assert_eq!(setting(&resolved, "allow_targets").1, "flag --dev");
    assert_eq!(setting(&resolved, "retry_schedule"), ("1s,2s".into(), "file /etc/hookpost.toml".into()));
    assert_eq!(setting(&resolved, "attempt_timeout").1, "default");
    assert_eq!((resolved.config.listen.port(), resolved.config.log.as_str()), (3, "error"));
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    let resolved =
        with_env(&[("HOOKPOST_LISTEN", ""), ("DATABASE_URL", " "), ("HOOKPOST_AUTH", "")]).expect("defaults");
    assert_eq!(setting(&resolved, "listen").1, "default");
    assert!(resolved.config.database_url.is_none() && resolved.config.auth == Auth::Keys);
}

#[test]
fn dev_logs_every_delivery_unless_something_else_was_said() {
    let log =
        |variables: &[(&str, &str)]| setting(&resolve(None, &env(variables), &dev()).expect("a configuration"), "log");
    assert_eq!(log(&[]), ("info,hookpost=debug".into(), "flag --dev".into()));
    assert_eq!(log(&[("HOOKPOST_LOG", "warn")]).0, "warn");
}

#[test]
fn dev_adds_loopback_to_the_ranges_that_were_given() {
    let variables = env(&[("HOOKPOST_ALLOW_TARGETS", "10.1.0.0/16, 192.168.7.7")]);
    let resolved = resolve(None, &variables, &dev()).expect("a configuration");
    let (value, source) = setting(&resolved, "allow_targets");
    assert_eq!(value, "10.1.0.0/16,127.0.0.0/8,192.168.7.7/32,::1/128");
    assert!(source.contains("HOOKPOST_ALLOW_TARGETS"), "{source}");
    assert_eq!(setting(&resolved, "dev"), ("true".into(), "flag --dev".into()));
}

#[test]
fn a_wrong_value_is_named_with_its_source_what_was_found_and_what_is_expected() {
    assert_eq!(
        refusal(with_env(&[("HOOKPOST_ATTEMPT_TIMEOUT", "5min 1s")])),
        "attempt_timeout (environment variable HOOKPOST_ATTEMPT_TIMEOUT) is \"5min 1s\": it is above the most, 5m; \
         expected a duration from 100ms to 5m, such as 10s"
    );
    assert_eq!(
        refusal(with_file("listen = '127.0.0.1'")),
        "listen (file /etc/hookpost.toml) is \"127.0.0.1\": the port is missing; expected an IP address and a port, such \
         as 127.0.0.1:8000 or [::1]:8000"
    );
    let flags = Flags { data_dir: Some(String::new()), ..Flags::default() };
    let text = refusal(resolve(None, &env(&[]), &flags));
    assert!(text.starts_with("data_dir (flag --data-dir) is \"\": it is empty; expected"), "{text}");
}

#[test]
fn every_setting_refuses_nonsense_by_its_own_name() {
    let paths = [keys::DATA_DIR.name, keys::MASTER_KEY_FILE.name];
    for key in keys::ALL.iter().filter(|key| !paths.contains(&key.name)) {
        let text = refusal(with_env(&[(key.env, "=nonsense=\nsecond line")]));
        assert!(text.starts_with(&format!("{} (environment variable {}) is ", key.name, key.env)), "{text}");
        assert!(text.contains(key.expected), "{text}");
    }
}

#[test]
fn durations_hold_at_their_bounds_and_not_beyond() {
    let timeout = |text: &str| with_env(&[("HOOKPOST_ATTEMPT_TIMEOUT", text)]);
    assert!(timeout("100ms").is_ok() && timeout("5m").is_ok());
    assert!(timeout("99ms").is_err() && timeout("5m 1ms").is_err() && timeout("10").is_err());
    let retention = |text: &str| with_env(&[("HOOKPOST_RETENTION", text), ("HOOKPOST_RETRY_SCHEDULE", "1s")]);
    assert!(retention("1h").is_ok() && retention("366days").is_ok());
    assert!(retention("59m 59s").is_err() && retention("366days 1s").is_err());
}

#[test]
fn more_ranges_than_the_limit_are_refused() {
    let ranges = |count: usize| with_env(&[("HOOKPOST_ALLOW_TARGETS", &vec!["10.0.0.1"; count].join(","))]);
    assert!(ranges(64).is_ok());
    assert!(refusal(ranges(65)).contains("there are 65 of them"));
}

#[test]
fn name_servers_are_at_port_53_unless_another_is_named() {
    let servers = |text: &str| with_env(&[("HOOKPOST_DNS_SERVERS", text)]);
    let named = servers("10.0.0.53, [fd00::53]:5353").expect("a configuration").config.dns_servers;
    assert_eq!(named, ["10.0.0.53:53".parse().expect("an address"), "[fd00::53]:5353".parse().expect("an address")]);
    assert!(servers("1.1.1.1,2.2.2.2,3.3.3.3").is_ok());
    assert!(refusal(servers("1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4")).contains("there are 4 of them"));
}

#[test]
fn https_is_required_when_somebody_says_so() {
    let required = |text: &str| with_env(&[("HOOKPOST_REQUIRE_HTTPS", text)]).map(|found| found.config.require_https);
    assert_eq!((required(""), required("false"), required("true")), (Ok(false), Ok(false), Ok(true)));
    assert!(required("yes").is_err() && required("1").is_err());
    assert!(with_file("require_https = true").expect("a configuration").config.require_https);
}

#[test]
fn the_ports_of_mail_redis_and_memcached_are_refused_unless_a_list_says_otherwise() {
    let ports = |text: &str| with_env(&[("HOOKPOST_REFUSED_PORTS", text)]).map(|found| found.config.refused_ports);
    let default = ports("").expect("defaults");
    assert!([25, 587, 6379, 11211].iter().all(|port| default.contains(port)), "{default:?}");
    assert!(![80, 443, 8000, 8080, 8443, 9000].iter().any(|port| default.contains(port)), "{default:?}");
    assert_eq!((ports("none"), ports("25, 6379")), (Ok(Vec::new()), Ok(vec![25, 6379])));
    assert_eq!(with_file("refused_ports = [25, '26']").expect("a configuration").config.refused_ports, [25, 26]);
    for wrong in ["0", "65536", "25,none", "-1", "smtp", &vec!["25"; 257].join(",")] {
        let text = refusal(with_env(&[("HOOKPOST_REFUSED_PORTS", wrong)]));
        assert!(text.contains("at most 256 ports separated by commas"), "{text}");
    }
    assert!(refusal(with_file("refused_ports = [[25]]")).contains("refused_ports"));
}

#[test]
fn a_range_that_opens_more_than_it_names_is_refused() {
    let text = refusal(with_env(&[("HOOKPOST_ALLOW_TARGETS", "10.1.2.3/8")]));
    assert!(text.contains("write 10.0.0.0/8 or 10.1.2.3"), "{text}");
    for (embedded, meant) in [("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("64:ff9b::10.1.2.3", "10.1.2.3/32")] {
        let text = refusal(with_env(&[("HOOKPOST_ALLOW_TARGETS", embedded)]));
        assert!(text.contains(&format!("write {meant}")), "{text}");
    }
}

#[test]
fn a_schedule_that_outlasts_the_retention_is_refused() {
    let text = refusal(with_env(&[("HOOKPOST_RETRY_SCHEDULE", "24h,48h")]));
    assert!(text.starts_with("retry_schedule (environment variable HOOKPOST_RETRY_SCHEDULE)"), "{text}");
    assert!(text.contains("add up to 3days"), "{text}");
}

#[test]
fn no_waits_at_all_is_a_single_attempt() {
    for resolved in [with_env(&[("HOOKPOST_RETRY_SCHEDULE", "none")]), with_file("retry_schedule = []")] {
        assert_eq!(resolved.expect("a configuration").config.retry_schedule.wait_after(1), None);
    }
}

#[test]
fn an_unknown_key_or_variable_names_the_nearest_known_one() {
    assert_eq!(
        refusal(with_file("lissten = '127.0.0.1:8000'")),
        "\"lissten\" in /etc/hookpost.toml is not a setting; did you mean listen?"
    );
    assert_eq!(
        refusal(with_env(&[("HOOKPOST_DATADIR", "/srv")])),
        "environment variable HOOKPOST_DATADIR is not a setting; did you mean HOOKPOST_DATA_DIR?"
    );
    assert!(refusal(with_file("[server]\nport = 8000")).contains("known are listen, auth,"));
}

#[test]
fn what_kubernetes_says_of_a_service_called_hookpost_is_ignored() {
    let links = [
        ("HOOKPOST_SERVICE_HOST", "10.0.0.1"),
        ("HOOKPOST_SERVICE_PORT", "80"),
        ("HOOKPOST_SERVICE_PORT_HTTP", "80"),
        ("HOOKPOST_PORT", "tcp://10.0.0.1:80"),
        ("HOOKPOST_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("HOOKPOST_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    assert!(with_env(&links).is_ok());
    assert!(refusal(with_env(&[("HOOKPOST_PORT", "9000")])).contains("HOOKPOST_PORT is not a setting"));
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_the_line() {
    let text = refusal(with_file("listen = '127.0.0.1:8000'\nlog info\n"));
    assert!(text.starts_with("/etc/hookpost.toml, line 2, is not TOML: "), "{text}");
    let text = refusal(with_file("listen = { port = 8000 }"));
    assert!(text.contains("is \"table\": it has to be a string"), "{text}");
}

#[test]
fn passwords_are_shown_neither_in_settings_nor_in_errors_nor_by_debug() {
    let good = [("DATABASE_URL", "postgres://app:hunter2@db/app"), ("REDIS_URL", "rediss://:hunter2@cache:6380")];
    let resolved = with_env(&good).expect("a configuration");
    let shown = format!("{resolved:?} {}", serde_json::to_string(&resolved.settings).expect("JSON"));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(setting(&resolved, "database_url").0, "postgres://app:***@db/app");
    assert_eq!(setting(&resolved, "redis_url").0, "rediss://:***@cache:6380");

    for bad in ["mysql://app:hunter2@db/app", "app:hunter2@db", "redis://app:hun/hunter2@cache:x"] {
        for name in ["DATABASE_URL", "REDIS_URL"] {
            let text = refusal(with_env(&[(name, bad)]));
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

/// 32 times the same byte, in base64.
const MASTER_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const OTHER_MASTER_KEY: &str = "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=";

#[test]
fn master_keys_are_read_in_their_order_and_never_shown() {
    let resolved = with_env(&[("HOOKPOST_MASTER_KEY", &format!("{MASTER_KEY}, {OTHER_MASTER_KEY},"))]).expect("keys");
    let ids: Vec<_> = resolved.config.master_keys.iter().map(MasterKey::id).collect();
    let expected = [MASTER_KEY, OTHER_MASTER_KEY].map(|key| MasterKey::parse(key).expect("a key"));
    assert_eq!(ids, expected.each_ref().map(MasterKey::id));
    let shown = format!("{resolved:?} {}", serde_json::to_string(&resolved.settings).expect("JSON"));
    assert!(!shown.contains("BwcH") && !shown.contains("CAgI") && !shown.contains("7, 7"), "{shown}");
    assert_eq!(setting(&resolved, "master_key").0, "***");
    assert_eq!(setting(&with_env(&[]).expect("defaults"), "master_key").0, "");
}

#[test]
fn master_keys_that_are_none_are_refused_without_being_shown() {
    let refused = |text: &str| refusal(with_env(&[("HOOKPOST_MASTER_KEY", text)]));
    for (text, said) in [
        ("hunter2!".to_owned(), "key 1 is not a key: it is not base64"),
        (format!("{MASTER_KEY},aHVudGVyMg=="), "key 2 is not a key: it is 7 bytes long"),
        (format!("{MASTER_KEY},{MASTER_KEY}"), "key 2 is there twice"),
        (vec!["aHVudGVyMg=="; 17].join(","), "there are 17 of them"),
    ] {
        let error = refused(&text);
        assert!(error.contains(said), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("aHVud") && !error.contains("BwcH"), "{error}");
    }
}

#[test]
fn a_file_of_master_keys_stands_for_the_variable_and_not_beside_it() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("master.keys");
    let read = |text: &str| {
        std::fs::write(&path, text).expect("a file");
        read_master_keys(&path).map(|keys| keys.len()).map_err(|error| error.to_string())
    };
    assert_eq!(read(&format!("# the new one\n{MASTER_KEY}\r\n\n{OTHER_MASTER_KEY} # until 2027")), Ok(2));
    for (text, said) in [("hunter2!", "key 1 is not a key"), ("# none\n", "there is no key in it")] {
        let error = read(text).expect_err("refused");
        assert!(error.contains("master.keys cannot be used") && error.contains(said), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let both = [("HOOKPOST_MASTER_KEY", MASTER_KEY), ("HOOKPOST_MASTER_KEY_FILE", "/etc/master.keys")];
    let refused = refusal(with_env(&both));
    assert!(refused.contains("HOOKPOST_MASTER_KEY, too") && refused.contains("only one of the two"), "{refused}");
    let refused = refusal(with_file(&format!("master_key = '{MASTER_KEY}'\nmaster_key_file = '/etc/master.keys'")));
    assert!(refused.contains("hookpost.toml, too") && !refused.contains("BwcH"), "{refused}");
}

#[test]
fn master_keys_of_a_later_layer_win_however_they_are_given() {
    let file = |text: &str| ConfigFile { path: "/etc/hookpost.toml".into(), text: text.to_owned() };
    let resolved = |text: &str, variable| resolve(Some(&file(text)), &env(&[variable]), &Flags::default());
    let by_path = resolved(&format!("master_key = '{MASTER_KEY}'"), ("HOOKPOST_MASTER_KEY_FILE", "/etc/master.keys"));
    let config = by_path.expect("a configuration").config;
    assert!(config.master_keys.is_empty() && config.master_key_file.is_some());
    let by_value = resolved("master_key_file = '/etc/master.keys'", ("HOOKPOST_MASTER_KEY", MASTER_KEY));
    let config = by_value.expect("a configuration").config;
    assert!(config.master_keys.len() == 1 && config.master_key_file.is_none());
    let unset = resolved("master_key_file = '/etc/master.keys'", ("HOOKPOST_MASTER_KEY", " "));
    assert!(unset.expect("a configuration").config.master_key_file.is_some(), "an empty variable is none");
    assert!(!format!("{:?}", file("master_key = 'hunter2'")).contains("hunter2"));
}

#[test]
fn keys_are_asked_for_unless_somebody_has_said_otherwise() {
    let auth = |said: &str, flags: &Flags| {
        let resolved = resolve(None, &env(&[("HOOKPOST_AUTH", said)]), flags).expect("a configuration");
        (resolved.config.auth, setting(&resolved, "auth").0)
    };
    let flags = Flags::default();
    assert_eq!(auth("", &flags), (Auth::Keys, "keys".to_owned()));
    assert_eq!(auth("off", &flags), (Auth::Off, "off".to_owned()));
    assert_eq!(auth("", &dev()), (Auth::Off, "off".to_owned()));
    assert_eq!(auth("keys", &dev()), (Auth::Keys, "keys".to_owned()));
}

#[test]
fn the_quota_of_subscriptions_holds_at_its_bounds_and_not_beyond() {
    let quota = |text: &str| with_env(&[("HOOKPOST_MAX_SUBSCRIPTIONS", text)]);
    assert_eq!(with_env(&[]).expect("defaults").config.max_subscriptions, 100_000);
    assert!(quota("1").is_ok() && quota("10000000").is_ok());
    assert!(quota("0").is_err() && quota("10000001").is_err() && quota("-1").is_err());
}

#[test]
fn a_file_over_the_limit_is_refused_and_a_missing_one_is_named() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("big.toml");
    std::fs::write(&path, " ".repeat(1024 * 1024)).expect("a file");
    assert!(read_file(path.clone()).is_ok());
    std::fs::write(&path, " ".repeat(1024 * 1024 + 1)).expect("a file");
    assert!(read_file(path).is_err_and(|error| error.to_string().contains("larger than 1048576 bytes")));
    let missing = read_file(home.path().join("none.toml")).expect_err("missing").to_string();
    assert!(missing.contains("none.toml cannot be read"), "{missing}");
}
