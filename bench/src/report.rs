//! Results as tables and as JSON, with the machine and the settings they were made with.

use std::{fs, io, path::Path};

use serde::Serialize;

use crate::{
    compare::Series,
    load::{Load, Unit},
    machine::{Cores, Machine},
    neighbours::Neighbours,
    stall::Stall,
    standing::Idle,
};

/// Everything that one command has measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Who ran on which core.
    pub cores: Cores,
    /// Rounds of each target in each group.
    pub rounds: usize,
    /// Each round did this part of its load.
    pub divided_by: u64,
    /// Loads.
    pub groups: Vec<Group>,
    /// Idle connections, by target.
    pub idle: Vec<(String, Idle)>,
    /// Both directions at once and slow readers, by target and mode.
    pub stalls: Vec<(String, Stall)>,
    /// Quiet clients beside bad ones, by target and mode.
    pub neighbours: Vec<(String, Neighbours)>,
    /// Goals, and whether they were met.
    pub verdicts: Vec<Verdict>,
}

/// One load on one or several targets.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Scenario's name.
    pub scenario: String,
    /// What one round did.
    pub load: Load,
    /// What figures are per.
    pub unit: Unit,
    /// By target; ratios are to the last.
    pub series: Vec<Series>,
}

/// A goal and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// What was measured, in words.
    pub case: String,
    /// The goal, in words.
    pub goal: String,
    /// The figure.
    pub measured: f64,
    /// The figure with its unit, and what it was made of.
    pub shown: String,
    /// Whether the goal was met; `None` without one.
    pub pass: Option<bool>,
}

impl Report {
    /// An empty one for this machine.
    pub fn new(cores: Cores, rounds: usize, divided_by: u64) -> Report {
        Report {
            machine: Machine::read(),
            cores,
            rounds,
            divided_by,
            groups: Vec::new(),
            idle: Vec::new(),
            stalls: Vec::new(),
            neighbours: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// The machine and settings in a line or two.
    pub fn heading(&self) -> String {
        let m = &self.machine;
        format!(
            "Linux {}, {} x {}, {} MiB; target on cores {:?}, load on {:?}; load average {}; {} rounds, 1/{} of the work",
            m.kernel,
            m.cores,
            m.cpu,
            m.memory_mib,
            self.cores.target,
            self.cores.load,
            m.load_average,
            self.rounds,
            self.divided_by
        )
    }

    /// Writes all of it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_json(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text)
    }

    /// Goals and figures as a markdown table.
    pub fn verdict_table(&self) -> String {
        let mut table = Table::new(&["case", "goal", "measured", ""]);
        for v in &self.verdicts {
            let word = match v.pass {
                Some(true) => "pass",
                Some(false) => "**miss**",
                None => "",
            };
            table.row([v.case.clone(), v.goal.clone(), v.shown.clone(), word.into()]);
        }
        table.markdown()
    }
}

impl Group {
    /// Median CPU per unit of series `n`, ratio to the last series.
    pub fn ratio(&self, n: usize) -> Option<f64> {
        let base = self.series.last()?.cpu_per_unit();
        Some(self.series.get(n)?.cpu_per_unit() / base)
    }

    /// As an aligned table.
    pub fn table(&self) -> String {
        let per = self.unit.name();
        let (cpu, speed) = (format!("CPU-s per {per}"), format!("{per} per s"));
        let heads = [
            "target",
            "mode",
            &cpu,
            "min..max",
            &speed,
            "p50 us",
            "p99 us",
            "p99.9 us",
            "CPU ratio",
        ];
        let mut table = Table::new(&heads);
        // Modes of one target are shown side by side and not judged against each other.
        let compared = self
            .series
            .iter()
            .any(|s| Some(&s.target) != self.series.last().map(|l| &l.target));
        for (n, series) in self.series.iter().enumerate() {
            let (low, high) = series.cpu_range();
            let last = n + 1 == self.series.len();
            let ratio = self
                .ratio(n)
                .filter(|_| compared && !last)
                .map_or_else(String::new, |r| format!("{r:.3}"));
            table.row([
                series.target.clone(),
                series.mode.into(),
                figure(series.cpu_per_unit()),
                format!("{}..{}", figure(low), figure(high)),
                figure(series.units_per_sec()),
                format!("{:.0}", series.median_of(|r| r.latency.p50_us)),
                format!("{:.0}", series.median_of(|r| r.latency.p99_us)),
                format!("{:.0}", series.median_of(|r| r.latency.p999_us)),
                ratio,
            ]);
        }
        table.plain()
    }
}

/// Three significant digits or so.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        v if v >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// Rows of text with columns as wide as they need.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a heading.
    pub fn new(heads: &[&str]) -> Table {
        Table {
            rows: vec![heads.iter().map(|&h| h.to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// For a terminal.
    pub fn plain(&self) -> String {
        self.lines("  ", "", "").join("\n")
    }

    /// As markdown.
    pub fn markdown(&self) -> String {
        let mut lines = self.lines(" | ", "| ", " |");
        let rule: Vec<String> = self.widths().into_iter().map(|w| "-".repeat(w)).collect();
        lines.insert(1, format!("| {} |", rule.join(" | ")));
        lines.join("\n")
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |n: usize| {
            self.rows
                .iter()
                .filter_map(|r| r.get(n))
                .map(|c| c.chars().count())
                .max()
        };
        (0..columns).map(|n| width(n).unwrap_or(0)).collect()
    }

    fn lines(&self, between: &str, before: &str, after: &str) -> Vec<String> {
        let widths = self.widths();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
                .collect();
            format!("{before}{}{after}", cells.join(between))
                .trim_end()
                .to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&["a", "long head"]);
        table.row(["wide cell".into(), "1".into()]);
        assert_eq!(table.plain(), "a          long head\nwide cell  1");
        assert_eq!(
            table.markdown().lines().nth(1),
            Some("| --------- | --------- |")
        );
        assert_eq!(
            (figure(123.4), figure(12.34), figure(0.1234), figure(0.012)),
            ("123".into(), "12.3".into(), "0.123".into(), "0.0120".into())
        );
    }
}
