//! What operators are given agrees with what there is: docs/operations.md, the alert rules and the dashboard name the figures of
//! `/metrics`, all of them, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use hookpost::metrics::{Live, Metrics};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page() -> String {
    let metrics = Metrics::default();
    metrics.refused("busy");
    metrics.render(&Live::default())
}

/// Names as they are queried, and whether it is a histogram.
fn figures() -> Vec<(String, bool)> {
    let page = page();
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let named = types.map(|(name, kind)| match kind {
        "counter" => (format!("{name}_total"), false),
        "info" => (format!("{name}_info"), false),
        kind => (name.to_owned(), kind == "histogram"),
    });
    named.collect()
}

fn names() -> BTreeSet<String> {
    figures().into_iter().map(|(name, _)| name).collect()
}

/// The figures that a text mentions; of a histogram, its parts count as it.
fn mentioned(text: &str) -> BTreeSet<String> {
    let figures = figures();
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_').filter(|word| word.starts_with("hookpost_"));
    let whole = |word: &str| {
        let parts = ["_bucket", "_sum", "_count"].into_iter().filter_map(|part| word.strip_suffix(part));
        let histogram = |name: &&str| figures.iter().any(|(known, is_histogram)| *is_histogram && known == name);
        parts.into_iter().find(histogram).unwrap_or(word).to_owned()
    };
    words.map(whole).collect()
}

/// The cells of the table of metrics: the metric, and the alerts.
fn table() -> Vec<(String, Vec<String>)> {
    let text = read("docs/operations.md");
    let rows = text.lines().filter(|line| line.starts_with("| `hookpost_"));
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        (quoted(cells[1]).remove(0), quoted(cells[3]))
    })
    .collect()
}

/// The names of the alerts.
fn alerts() -> BTreeSet<String> {
    let text = read("ops/prometheus/rules.yml");
    text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

fn dashboard() -> serde_json::Value {
    serde_json::from_str(&read("ops/grafana/hookpost.json")).expect("the dashboard is JSON")
}

/// The queries of all panels.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect()
}

/// What Prometheus has of `/metrics` after ten minutes in which everything has risen.
fn series() -> Vec<serde_json::Value> {
    let page = page();
    let samples =
        page.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').expect("a value").0);
    let of_a_process = |sample: &str| match sample.split_once('{') {
        Some((name, labels)) => format!("{name}{{instance=\"a\",{labels}"),
        None => format!("{sample}{{instance=\"a\"}}"),
    };
    samples.map(|sample| serde_json::json!({ "series": of_a_process(sample), "values": "1+1x40" })).collect()
}

/// Prometheus' own verdict on queries that must show something; `None` where there is no promtool.
fn evaluated(queries: &[String]) -> Option<Output> {
    let shows_nothing = |query: &String| {
        let query = query.replace("$__rate_interval", "1m").replace("$instance", "a");
        serde_json::json!({ "expr": format!("absent({query})"), "eval_time": "10m", "exp_samples": [] })
    };
    let expected: Vec<_> = queries.iter().map(shows_nothing).collect();
    let test = serde_json::json!({ "interval": "15s", "input_series": series(), "promql_expr_test": expected });
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    // JSON is YAML.
    fs::write(file.path(), serde_json::json!({ "rule_files": [], "tests": [test] }).to_string())
        .expect("it is written");
    let taken = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/promtool/usr/bin/promtool");
    for promtool in [Path::new("promtool"), &taken] {
        match Command::new(promtool).args(["test", "rules"]).arg(file.path()).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            output => return Some(output.expect("it runs")),
        }
    }
    None
}

#[track_caller]
fn only_known(what: &str, found: &BTreeSet<String>) {
    let unknown: Vec<_> = found.difference(&names()).cloned().collect();
    assert!(!found.is_empty() && unknown.is_empty(), "{what} names figures that /metrics does not show: {unknown:?}");
}

#[test]
fn every_figure_has_its_row_in_the_documentation_and_every_row_its_figure() {
    let documented: BTreeSet<_> = table().into_iter().map(|(name, _)| name).collect();
    let missing: Vec<_> = names().difference(&documented).cloned().collect();
    assert!(missing.is_empty(), "docs/operations.md does not explain {missing:?}");
    only_known("docs/operations.md", &mentioned(&read("docs/operations.md")));
}

#[test]
fn alerts_use_figures_that_exist() {
    only_known("ops/prometheus/rules.yml", &mentioned(&read("ops/prometheus/rules.yml")));
    only_known("ops/prometheus/rules_test.yml", &mentioned(&read("ops/prometheus/rules_test.yml")));
}

#[test]
fn the_documentation_names_each_alert_beside_a_figure_that_it_uses() {
    let rules = read("ops/prometheus/rules.yml");
    let named: BTreeSet<_> = table().into_iter().flat_map(|(_, alerts)| alerts).collect();
    assert_eq!(named, alerts());
    for (figure, alerts) in table() {
        for alert in alerts {
            let rule = rules.split("- alert: ").find(|rule| rule.starts_with(&format!("{alert}\n"))).expect("a rule");
            assert!(mentioned(rule).contains(&figure), "{alert} does not use {figure}");
        }
    }
}

#[test]
fn the_dashboard_shows_figures_that_exist_and_leaves_none_out() {
    let shown: BTreeSet<_> = queries().iter().flat_map(|query| mentioned(query)).collect();
    only_known("ops/grafana/hookpost.json", &shown);
    let missing: Vec<_> = names().difference(&shown).cloned().collect();
    assert!(missing.is_empty(), "ops/grafana/hookpost.json does not show {missing:?}");
}

#[test]
fn prometheus_takes_every_query_of_the_dashboard_and_has_something_to_show() {
    let Some(verdict) = evaluated(&queries()) else {
        // Past libtest, which keeps what tests print to itself.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: the dashboard's queries. promtool (in the package prometheus) adds what it needs."
        );
        return;
    };
    assert!(verdict.status.success(), "{}", String::from_utf8_lossy(&verdict.stderr));
    for broken in ["hookpost_nothing", "sum(hookpost_owner", "hookpost_owner{instance=\"b\"}"] {
        assert!(!evaluated(&[broken.to_owned()]).expect("as before").status.success(), "{broken} passes");
    }
}

/// Or nobody could tell which is which.
#[test]
fn lines_of_a_panel_have_names_of_their_own() {
    for panel in dashboard()["panels"].as_array().expect("panels") {
        let targets = panel["targets"].as_array().into_iter().flatten();
        let names: Vec<_> = targets
            .map(|target| (target["legendFormat"].as_str().unwrap_or_default(), target["expr"].as_str()))
            .collect();
        let own: BTreeSet<_> = names.iter().map(|(name, _)| name).collect();
        assert_eq!(own.len(), names.len(), "{}", panel["title"]);
        for (name, query) in names {
            // A series for each label that is not summed away: the name has to tell them apart.
            let query = query.expect("a query");
            let by = query.split_once(" by (").map(|(_, rest)| rest.split(')').next().expect("a label"));
            let label = by.filter(|label| *label != "le");
            assert!(
                label.is_none_or(|label| name.contains(&format!("{{{{{label}}}}}"))),
                "{}: {query}",
                panel["title"]
            );
            assert!(
                ["sum", "min", "max", "histogram_quantile"].iter().any(|start| query.starts_with(start)),
                "{query}"
            );
        }
    }
}

#[test]
fn panels_do_not_overlap_and_have_ids_of_their_own() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let side = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        let cells =
            (side("y")..side("y") + side("h")).flat_map(|y| (side("x")..side("x") + side("w")).map(move |x| (x, y)));
        for cell in cells {
            assert!(taken.insert(cell) && cell.0 < 24, "{} overlaps at {cell:?}", panel["title"]);
        }
    }
}

/// A value that no series has would silence an alert for ever.
#[test]
fn labels_in_queries_have_values_that_exist() {
    let page = page();
    let text = read("ops/prometheus/rules.yml") + &queries().join("\n");
    for label in ["state", "class", "size"] {
        for piece in text.split(&format!("{label}=\"")).skip(1).chain(text.split(&format!("{label}!=\"")).skip(1)) {
            let value = piece.split('"').next().expect("a value");
            assert!(page.contains(&format!("{label}=\"{value}\"")), "{label} is never {value:?}");
        }
    }
}
