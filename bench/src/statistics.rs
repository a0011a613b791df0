//! Medians, and how far rounds lie apart.

use std::fmt;

/// The middle of several rounds and their spread: the median distance from it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub spread: f64,
}

impl Summary {
    /// `None` for no rounds.
    pub fn of(values: &[f64]) -> Option<Self> {
        let median = median(values)?;
        let distances: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
        Some(Self { median, spread: self::median(&distances)? })
    }

    /// Whether a goal is met: by the median, or within the spread of the rounds.
    pub fn is_at_most(self, limit: f64) -> bool {
        self.median - self.spread <= limit
    }
}

impl fmt::Display for Summary {
    /// Both with as many digits behind the point as the formatter asks for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ±{:.digits$}", self.median, self.spread)
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_round_does_not_move_the_middle_nor_the_spread() {
        let summary = Summary::of(&[1.0, 1.1, 0.9, 1.0, 50.0]).unwrap();
        assert_eq!(summary.median, 1.0);
        assert!(summary.spread < 0.11, "{summary:?}");
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[2.0, 4.0]), Some(Summary { median: 3.0, spread: 1.0 }));
    }

    #[test]
    fn a_goal_is_met_within_the_spread() {
        let summary = Summary { median: 1.7, spread: 0.1 };
        assert!(summary.is_at_most(1.6) && !summary.is_at_most(1.5));
    }
}
