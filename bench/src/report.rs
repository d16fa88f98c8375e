//! The table and the JSON file.

use std::path::Path;

use serde::Serialize;

/// One figure against its goal.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub scenario: String,
    pub figure: String,
    pub goal: String,
    pub measured: f64,
    pub unit: &'static str,
    /// Whether the goal is met; `None` when there is none.
    pub met: Option<bool>,
    /// Every run's figure.
    pub runs: Vec<f64>,
}

impl Row {
    /// A figure without a goal of its own.
    pub fn plain(scenario: &str, figure: &str, unit: &'static str, runs: Vec<f64>) -> Self {
        let measured = median(&runs);
        Self { scenario: scenario.into(), figure: figure.into(), goal: String::new(), measured, unit, met: None, runs }
    }

    pub fn at_least(self, goal: f64) -> Self {
        Self { goal: format!("≥ {}", rounded(goal)), met: Some(self.measured >= goal), ..self }
    }

    /// For the positive control: the figure that would be a failure elsewhere.
    pub fn above(self, bound: f64) -> Self {
        Self { goal: format!("> {}", rounded(bound)), met: Some(self.measured > bound), ..self }
    }

    pub fn at_most(self, goal: f64) -> Self {
        Self { goal: format!("≤ {}", rounded(goal)), met: Some(self.measured <= goal), ..self }
    }
}

/// Goals that are computed would have more digits than they mean.
fn rounded(goal: f64) -> f64 {
    (goal * 100.0).round() / 100.0
}

pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The smallest value that is at least as large as this share of them.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub fn print(row: &Row) {
    let met = row.met.map_or("", |met| if met { "met" } else { "MISSED" });
    println!("{:<16} {:<44} {:>12.2} {:<6} {:<10} {met}", row.scenario, row.figure, row.measured, row.unit, row.goal);
}

pub fn write(rows: &[Row], path: &Path) -> anyhow::Result<()> {
    println!("\n{:<16} {:<44} {:>12} {:<6} {:<10}", "scenario", "median of the runs", "measured", "unit", "goal");
    rows.iter().for_each(print);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, serde_json::to_string_pretty(&serde_json::json!({ "machine": machine(), "rows": rows }))?)?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

/// What the figures were measured on.
fn machine() -> serde_json::Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    serde_json::json!({
        "cpu": model.trim_start_matches(['\t', ' ', ':']),
        "cores": std::thread::available_parallelism().map(usize::from).unwrap_or(0),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}
