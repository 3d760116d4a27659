//! The lines that the bench prints: a figure, its goal, and what was measured.

use std::fmt;

/// One figure with its goal, an upper limit.
#[derive(Debug)]
pub struct Row {
    /// What it is a figure of.
    pub name: &'static str,
    /// The figure.
    pub figure: f64,
    /// What it may be at most.
    pub goal: f64,
    /// Its unit.
    pub unit: Unit,
    /// What was measured.
    pub detail: String,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// One thing as a part of another.
    Ratio,
    /// Memory.
    MiB,
}

impl Row {
    fn verdict(&self) -> &'static str {
        if self.figure <= self.goal {
            "met"
        } else {
            "missed"
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (figure, goal) = match self.unit {
            Unit::Ratio => (format!("{:.3}", self.figure), format!("{:.2}", self.goal)),
            Unit::MiB => (
                format!("{:.1} MiB", self.figure),
                format!("{:.0} MiB", self.goal),
            ),
        };
        write!(
            out,
            "{:<34} {figure:>10}   goal at most {goal:<8} {:<6}   {}",
            self.name,
            self.verdict(),
            self.detail
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_up_to_its_limit_and_missed_beyond() {
        let row = |figure| Row {
            name: "size",
            figure,
            goal: 0.85,
            unit: Unit::Ratio,
            detail: "1 MB".to_owned(),
        };
        assert!(row(0.85).to_string().contains(" met "));
        // Rounded it would be met.
        let missed = row(0.8501).to_string();
        assert!(missed.contains(" missed ") && missed.contains("0.850"));
    }
}
