//! The same load on several targets in turn, A B C A B C, so that what else the machine does falls
//! on all alike; medians and their ratios.

use serde::Serialize;

use crate::load::{Load, LoadError, Outcome, Runner};

/// All rounds of one target.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// Target's name.
    pub target: String,
    /// How clients spoke.
    pub mode: &'static str,
    /// In the order they were run.
    pub rounds: Vec<Outcome>,
}

impl Series {
    /// Median CPU seconds per unit.
    pub fn cpu_per_unit(&self) -> f64 {
        median(self.rounds.iter().map(|r| r.cpu_per_unit))
    }

    /// Median units per second.
    pub fn units_per_sec(&self) -> f64 {
        median(self.rounds.iter().map(|r| r.units_per_sec))
    }

    /// Smallest and largest CPU seconds per unit.
    pub fn cpu_range(&self) -> (f64, f64) {
        let all = || self.rounds.iter().map(|r| r.cpu_per_unit);
        (
            all().fold(f64::INFINITY, f64::min),
            all().fold(0.0, f64::max),
        )
    }

    /// Median of one figure of every round.
    pub fn median_of(&self, figure: impl Fn(&Outcome) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }
}

/// Runs `load` on each of `runners` in turn, `rounds` times, after one smaller round each to warm
/// up. `told` hears of every round.
///
/// # Errors
/// The first round that fails: which of `runners` ran it, and why.
pub fn interleave(
    runners: &[Runner<'_>],
    load: Load,
    rounds: usize,
    mut told: impl FnMut(&str, usize, &Outcome),
) -> Result<Vec<Series>, (usize, LoadError)> {
    let mut all: Vec<Series> = runners
        .iter()
        .map(|r| Series {
            target: r.target.name().into(),
            mode: r.spoken().name(),
            rounds: Vec::new(),
        })
        .collect();
    let run = |at: usize, load| runners[at].run(load).map_err(|error| (at, error));
    for at in 0..runners.len() {
        run(at, load.divided(WARM_UP_PART))?;
    }
    for round in 0..rounds {
        for (at, series) in all.iter_mut().enumerate() {
            let outcome = run(at, load)?;
            told(&series.target, round, &outcome);
            series.rounds.push(outcome);
        }
    }
    Ok(all)
}

/// The middle value; the mean of the middle two of an even number; 0 of none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    let half = all.len() / 2;
    match all.get(half) {
        None => 0.0,
        Some(&upper) if all.len() % 2 == 1 => upper,
        Some(&upper) => (all[half - 1] + upper) / 2.0,
    }
}

const WARM_UP_PART: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median([].into_iter()), 0.0);
    }
}
