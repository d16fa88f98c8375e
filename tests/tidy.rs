//! Style as a unit test: each rule is a sentence, and a failure names the file and the line.

use std::fs;
use std::path::{Path, PathBuf};

/// One line of one file.
struct Line {
    place: String,
    text: String,
}

impl Line {
    /// Without what is only said, not done.
    fn code(&self) -> &str {
        self.text.split("//").next().unwrap_or_default()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below, in order, without what is built or stored there.
fn files(below: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extensions.contains(&extension) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn rust_files(folders: &[&str]) -> Vec<PathBuf> {
    folders.iter().flat_map(|folder| files(folder, &["rs"])).filter(|path| name(path) != file!()).collect()
}

fn lines(folders: &[&str]) -> Vec<Line> {
    let numbered = |path: PathBuf| {
        let text = read(&path);
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.into_iter().enumerate().map(move |(i, text)| Line { place: format!("{}:{}", name(&path), i + 1), text })
    };
    rust_files(folders).into_iter().flat_map(numbered).collect()
}

/// Fails with every line that breaks the rule.
fn none(rule: &str, broken: impl IntoIterator<Item = String>) {
    let broken: Vec<_> = broken.into_iter().collect();
    assert!(broken.is_empty(), "{rule}\n  {}", broken.join("\n  "));
}

fn none_of(rule: &str, lines: Vec<Line>, breaks: impl Fn(&Line) -> bool) {
    let broken = lines.iter().filter(|line| breaks(line));
    none(rule, broken.map(|line| format!("{}: {}", line.place, line.text.trim())));
}

/// Whether the path or word occurs on its own, not as a part of another word.
fn has_word(text: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part_of_word) && !text[at + word.len()..].starts_with(part_of_word))
}

#[test]
fn the_delivery_machine_knows_no_runtime_actor_sql_http_clock_or_chance() {
    const KNOWS: [&str; 19] = [
        "tokio",
        "ractor",
        "async",
        "await",
        "rusqlite",
        "tokio_postgres",
        "deadpool_postgres",
        "fred",
        "warp",
        "hyper",
        "http",
        "reqwest",
        "url",
        "rand",
        "SystemTime",
        "Instant",
        "fs",
        "env",
        "thread",
    ];
    none_of(
        "src/delivery is pure: inputs and the time go in, actions and the next deadline come out.",
        lines(&["src/delivery"]),
        |line| {
            // Words in texts are no knowledge: `"https://…"` in a test's subscription.
            let code: String = line.code().split('"').step_by(2).collect();
            KNOWS.iter().any(|word| has_word(&code, word))
        },
    );
}

#[test]
fn the_delivery_machine_depends_on_no_other_module() {
    none_of("src/delivery is below everything else and uses only itself.", lines(&["src/delivery"]), |line| {
        line.code().match_indices("crate::").any(|(at, _)| !line.code()[at..].starts_with("crate::delivery"))
    });
}

#[test]
fn signatures_are_compared_in_constant_time() {
    let code = lines(&["src/outbound/signing"])
        .into_iter()
        .chain(lines(&["src/outbound"]).into_iter().filter(|line| line.place.starts_with("src/outbound/signing.rs")));
    let code: Vec<_> = code.filter(|line| !line.place.contains("tests.rs")).collect();
    assert!(code.iter().any(|line| line.code().contains("verify_slice")), "the rule looks at the wrong files");
    none_of(
        "What signs and verifies compares with `verify_slice` (or verifies a public key), and never with `==`.",
        code,
        |line| [" == ", " != ", ".eq(", ".ne("].iter().any(|comparison| line.code().contains(comparison)),
    );
}

#[test]
fn handlers_find_what_exists_for_a_caller_in_one_place() {
    // Whoever goes round it shows one tenant what is another's.
    const LOOK_UPS: [&str; 5] =
        ["store.subscription(", "store.delivery(", "store.deliveries(", "store.event(", "store.replay("];
    none_of("Look it up through http/visible.rs, on behalf of the caller.", lines(&["src/http"]), |line| {
        !line.place.starts_with("src/http/visible.rs") && LOOK_UPS.iter().any(|call| line.code().contains(call))
    });
}

#[test]
fn timing_says_nothing_of_a_key_or_a_signature() {
    let calls = |folder: &str, call: &str| lines(&[folder]).iter().any(|line| line.code().contains(call));
    assert!(calls("src/access", ".ct_eq("), "hashes of keys are compared in constant time");
    assert!(calls("src/outbound", ".verify_slice("), "signatures are compared in constant time");
    // What cannot be compared in any other way is not.
    let token = read(&root().join("src/access/token.rs"));
    assert!(token.contains("#[derive(Clone, Copy)]\npub struct KeyHash(") && !token.contains("PartialEq for KeyHash"));
    let compared = lines(&["src/access", "src/http"]).into_iter().filter(|line| {
        ["hash == ", "hash != ", "hash.eq(", ".as_bytes() == "].iter().any(|how| line.code().contains(how))
    });
    none("A hash of a key is compared by `KeyHash::matches`.", compared.map(|line| line.place));
}

/// Sleeping in a test hides a race, or waits longer than it has to. What may do it all the same, and why.
const MAY_SLEEP: [(&str, &str); 0] = [];

#[test]
fn tests_wait_on_signals_and_never_sleep() {
    let may = |line: &Line| MAY_SLEEP.iter().any(|(file, _)| line.place.starts_with(file));
    none_of("Wait for what is to happen (a message, a barrier, an answer), not for time.", lines(&["tests"]), |line| {
        line.code().contains("sleep(") && !may(line)
    });
}

#[test]
fn no_test_is_switched_off_and_nothing_is_left_to_do() {
    none_of("Finish it, or remove it; an issue remembers better.", lines(&["src", "tests", "bench"]), |line| {
        ["#[ignore", "todo!(", "unimplemented!(", "dbg!("].iter().any(|word| line.code().contains(word))
    });
}

/// Beyond this a file has had a second idea for a while. Most settle near 90-250 lines.
const MAX_FILE_LINES: usize = 600;

#[test]
fn no_file_outgrows_a_reader() {
    let long = rust_files(&["src", "tests", "bench"]).into_iter().filter_map(|path| {
        let count = read(&path).lines().count();
        (count > MAX_FILE_LINES).then(|| format!("{}: {count} lines", name(&path)))
    });
    none(&format!("Split files of more than {MAX_FILE_LINES} lines where their second idea begins."), long);
}

#[test]
fn every_file_says_first_what_it_owns() {
    // A module's own tests stand beside it and own nothing.
    let beside = |path: &PathBuf| name(path).starts_with("src/") && name(path).ends_with("tests.rs");
    let files = rust_files(&["src", "tests", "bench"]).into_iter().filter(|path| !beside(path));
    let silent = files.filter(|path| !read(path).starts_with("//! "));
    none("A file opens with a `//!` line.", silent.map(|path| name(&path)));
}

/// Words that name nothing: whatever is in there has a better name.
const EMPTY_WORDS: [&str; 6] = ["manager", "helper", "helpers", "util", "utils", "common"];

#[test]
fn files_have_names_that_say_something() {
    let empty = rust_files(&["src", "tests", "bench"])
        .into_iter()
        .map(|path| name(&path))
        .filter(|path| path.trim_end_matches(".rs").split(['/', '_']).any(|part| EMPTY_WORDS.contains(&part)));
    none("Name a file after what it owns.", empty);
}

#[test]
fn items_have_names_that_say_something() {
    const KINDS: [&str; 5] = ["struct ", "enum ", "trait ", "mod ", "fn "];
    none_of("Name an item after what it is or does.", lines(&["src", "tests", "bench"]), |line| {
        KINDS.iter().filter_map(|kind| line.code().trim_start_matches("pub ").trim_start().strip_prefix(kind)).any(
            |rest| {
                let item = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                let snake = item.to_ascii_lowercase();
                snake.split('_').any(|part| EMPTY_WORDS.contains(&part))
                    || item.ends_with("Manager")
                    || item.ends_with("Helper")
            },
        )
    });
}

/// The variables that a text mentions: capital letters that begin like ours.
fn variables(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("HOOKPOST_") && word.len() > "HOOKPOST_".len()).map(str::to_owned).collect()
}

#[test]
fn every_setting_is_where_people_look_for_it() {
    for file in ["config/default.toml", ".env.example"] {
        let text = read(&root().join(file));
        let missing = hookpost::config::environment_names().filter(|name| !has_word(&text, name));
        none(&format!("{file} names every variable that is read."), missing.map(str::to_owned));
    }
}

#[test]
fn no_text_names_a_setting_that_is_not_there() {
    let known: Vec<_> = hookpost::config::environment_names().collect();
    let texts = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "Dockerfile",
        "docker-compose.yml",
        ".env.example",
    ];
    let texts =
        texts.iter().map(|file| root().join(file)).chain(files("docs", &["md"])).chain(files("config", &["toml"]));
    let wrong = texts.filter(|path| path.exists()).flat_map(|path| {
        let found = variables(&read(&path)).into_iter();
        found
            .filter(|name| !known.contains(&name.as_str()))
            .map(|found| format!("{}: {found}", name(&path)))
            .collect::<Vec<_>>()
    });
    none("What the documents call a setting is one.", wrong);
}

#[test]
fn the_tests_that_security_md_names_are_there() {
    let mut code: String = rust_files(&["src", "tests"]).iter().map(|path| read(path)).collect();
    code += &read(&root().join("tests/tidy.rs"));
    let text = read(&root().join("SECURITY.md"));
    let table = text.lines().skip_while(|line| *line != "## Held by tests").filter(|line| line.starts_with('|'));
    // Between backquotes: modules, which have colons, and names of tests.
    let names = table.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(|name| !name.contains("::"));
    let missing: Vec<_> = names.filter(|name| !code.contains(&format!("fn {name}("))).map(str::to_owned).collect();
    none("A row of SECURITY.md names the test that holds it.", missing);
}

#[test]
fn words_are_found_on_their_own_only() {
    assert!(has_word("use tokio::time;", "tokio") && has_word("a.await?", "await"));
    assert!(!has_word("tokio_postgres", "tokio") && !has_word("random", "rand") && !has_word("operand", "rand"));
    assert_eq!(variables("`HOOKPOST_LOG`, HOOKPOST_* and HOOKPOST_AUTH=off"), ["HOOKPOST_LOG", "HOOKPOST_AUTH"]);
}
