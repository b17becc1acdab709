//! How sure a figure is: measured again in turns, and judged beside its goal.

use std::fmt;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// So many times turns are drawn.
const DRAWS: usize = 2000;
/// Fewer turns decide nothing: what they have in common by chance would count as certain.
const ENOUGH: usize = 10;

/// A figure, and between what it is with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    turns: usize,
}

/// Whether a goal is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Reached,
    Missed,
    /// More rounds would say.
    Undecided,
}

impl Estimate {
    /// The figure that `of` makes of some turns, of all of them, and by how much it depends on which these were:
    /// they are drawn again with replacement (bootstrap). Whatever was measured in one turn stays together, so that
    /// what the machine did meanwhile counts on both sides of a ratio.
    ///
    /// `None` without a turn, and when `of` has no figure of all of them.
    pub(crate) fn of_turns(turns: usize, of: impl Fn(&[usize]) -> Option<f64>) -> Option<Estimate> {
        let all: Vec<usize> = (0..turns).collect();
        let value = of(&all).filter(|_| turns > 0)?;
        // The same measurements give the same figures.
        let mut random = StdRng::seed_from_u64(1);
        let mut figures: Vec<f64> = (0..DRAWS)
            .filter_map(|_| {
                let drawn: Vec<usize> = all.iter().map(|_| random.random_range(0..turns)).collect();
                of(&drawn)
            })
            .collect();
        figures.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (share * figures.len() as f64) as usize;
            figures
                .get(place.min(figures.len().saturating_sub(1)))
                .copied()
        };
        Some(Estimate {
            value,
            low: at(0.025)?,
            high: at(0.975)?,
            turns,
        })
    }

    /// Beside a goal of which more is worse.
    pub(crate) fn at_most(&self, goal: f64) -> Verdict {
        match self {
            _ if self.turns < ENOUGH => Verdict::Undecided,
            Estimate { high, .. } if *high <= goal => Verdict::Reached,
            Estimate { low, .. } if *low > goal => Verdict::Missed,
            _ => Verdict::Undecided,
        }
    }

    /// Beside a goal of which less is worse.
    pub(crate) fn at_least(&self, goal: f64) -> Verdict {
        match self {
            _ if self.turns < ENOUGH => Verdict::Undecided,
            Estimate { low, .. } if *low >= goal => Verdict::Reached,
            Estimate { high, .. } if *high < goal => Verdict::Missed,
            _ => Verdict::Undecided,
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Estimate {
            value, low, high, ..
        } = self;
        write!(f, "{value:.2} ({low:.2}–{high:.2})")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Reached => "reached",
            Verdict::Missed => "missed",
            Verdict::Undecided => "undecided",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::percentile::median;
    use super::*;

    fn of(values: &[f64]) -> Estimate {
        let figure = |turns: &[usize]| {
            let drawn: Vec<f64> = turns.iter().map(|turn| values[*turn]).collect();
            median(&drawn)
        };
        Estimate::of_turns(values.len(), figure).expect("there are values")
    }

    #[test]
    fn what_differs_from_turn_to_turn_makes_a_figure_unsure() {
        let steady: Vec<f64> = (0..20)
            .map(|turn| 1.0 + f64::from(turn % 3) / 100.0)
            .collect();
        let noisy: Vec<f64> = (0..20)
            .map(|turn| 1.0 + f64::from(turn % 7) / 10.0)
            .collect();
        let (steady, noisy) = (of(&steady), of(&noisy));
        assert!(steady.low <= steady.value && steady.value <= steady.high);
        assert!(noisy.high - noisy.low > steady.high - steady.low);
        assert_eq!(steady.at_most(1.03), Verdict::Reached);
        assert_eq!(steady.at_most(0.99), Verdict::Missed);
        assert_eq!(noisy.at_most(1.3), Verdict::Undecided);
        assert_eq!(steady.at_least(0.97), Verdict::Reached);
        assert_eq!(steady.at_least(1.03), Verdict::Missed);
    }

    #[test]
    fn few_turns_decide_nothing() {
        assert_eq!(of(&[1.0, 1.0, 1.0]).at_most(2.0), Verdict::Undecided);
        assert_eq!(Estimate::of_turns(0, |_| Some(1.0)), None);
    }
}
