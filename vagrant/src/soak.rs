//! `cargo lab soak`: every scenario on every era, in as many runs as it takes.
//!
//! After each scenario its result is written into the lab's cache, under the identity of the pot that it was played with.
//! A later run passes over what passed with the same pot; any change of the product makes another pot, and everything is
//! played again. At the end the results of these pots are printed as a table in Markdown, those of earlier runs included.

use std::fmt::Write as _;
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::eras::Choice;
use crate::lab::Lab;
use crate::pool::{self, Programme};
use crate::pot::Pot;
use crate::scenario::{self, Counts, Ending, Played, Scenarios};
use crate::sh::{self, locked};
use crate::upstream;
use crate::workbench::{self, Workbench};

/// What to do with the results of earlier runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// What passed is not played again.
    Count,
    /// They are forgotten.
    Forget,
}

/// How one scenario last ended on one era with one pot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// A Kubernetes version, with its runtime where that is not the usual one.
    era: String,
    scenario: String,
    /// The pot's identity, in hex.
    pot: String,
    /// Whole seconds.
    seconds: u64,
    /// The figure that it told.
    told: Option<String>,
    /// The first line of why it failed.
    failure: Option<String>,
}

/// All that is known, in the order in which it was played.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Results(Vec<Entry>);

/// What a soak knows while labs are at work.
struct Soak<'a> {
    cache: &'a Cache,
    eras: &'a [Choice],
    results: Mutex<Results>,
    /// The pots that are played with: an era's name, and an identity.
    pots: Mutex<Vec<(String, String)>>,
}

/// Plays what has not passed yet and prints the table. The counts are those of the table.
pub fn run(cache: &Cache, lab: &Lab, eras: &[Choice], earlier: Earlier) -> Result<Counts> {
    workbench::prepare_host(cache)?;
    let _servers = upstream::serve(cache.root(), &[])?;
    let results = match earlier {
        Earlier::Count => Results::load(cache)?,
        Earlier::Forget => Results::default(),
    };
    let soak = Soak {
        cache,
        eras,
        results: Mutex::new(results),
        pots: Mutex::default(),
    };
    let labs = pool::labs(lab)?;
    let failed = pool::play(cache, &labs, eras, &soak, None, || Ok(()));
    let (mut pots, results) = (locked(&soak.pots).clone(), locked(&soak.results));
    let place = |(era, _): &(String, String)| eras.iter().position(|is| is.to_string() == *era);
    pots.sort_by_key(place);
    let shown = results.of(&pots);
    println!("{}", table(&pots, &shown));
    let mut counts = counts(&shown);
    counts += Counts { passed: 0, failed };
    Ok(counts)
}

impl Soak<'_> {
    fn era(&self, index: usize) -> Result<String> {
        let choice = self.eras.get(index).context("no such era")?;
        Ok(choice.to_string())
    }
}

impl Programme for Soak<'_> {
    fn scenarios(&self, era: usize, workbench: &Workbench) -> Result<Scenarios> {
        let era = self.era(era)?;
        let (_, pot) = workbench.pots().next().context("no pot")?;
        let identity = pot.identity()?;
        let results = locked(&self.results);
        let left = scenario::of(&Played::Everything).into_iter();
        let left = left.filter(|scenario| {
            let name = scenario.name();
            let passed = results.passed(&era, &name, &identity);
            if passed {
                sh::say(format_args!("scenario {era} {name}: passed before"));
            }
            !passed
        });
        let left = left.collect();
        locked(&self.pots).push((era, identity));
        Ok(left)
    }

    fn ended(&self, era: usize, pot: &Pot, scenario: &str, ending: Ending) -> Result<()> {
        let entry = Entry::of(self.era(era)?, scenario.to_owned(), pot.identity()?, ending);
        let mut results = locked(&self.results);
        results.put(entry);
        results.save(self.cache)
    }
}

impl Entry {
    fn of(era: String, scenario: String, pot: String, ending: Ending) -> Self {
        let failure = ending.failure.map(|error| {
            let text = format!("{error:#}");
            text.lines().next().unwrap_or_default().to_owned()
        });
        Self {
            era,
            scenario,
            pot,
            seconds: ending.took.as_secs(),
            told: ending.told,
            failure,
        }
    }

    fn is_of(&self, era: &str, scenario: &str, pot: &str) -> bool {
        self.era == era && self.scenario == scenario && self.pot == pot
    }

    /// A cell of the table.
    fn cell(&self) -> String {
        let mut cell = match &self.failure {
            None => format!("passed, {} s", self.seconds),
            Some(failure) => format!("**failed**, {} s: {failure}", self.seconds),
        };
        if let Some(told) = &self.told {
            let _ = write!(cell, "; {told}");
        }
        cell.replace('|', "\\|")
    }
}

impl Results {
    fn load(cache: &Cache) -> Result<Self> {
        let path = cache.soak();
        if !path.exists() {
            return Ok(Self::default());
        }
        serde_json::from_str(&sh::read_text(&path)?).with_context(|| {
            format!(
                "reading {}; `cargo lab soak --afresh` does without it",
                path.display()
            )
        })
    }

    fn save(&self, cache: &Cache) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("encoding the results")?;
        sh::write_atomic(&cache.soak(), &text, 0o644)
    }

    fn passed(&self, era: &str, scenario: &str, pot: &str) -> bool {
        let entry = |entry: &&Entry| entry.is_of(era, scenario, pot);
        self.0
            .iter()
            .find(entry)
            .is_some_and(|entry| entry.failure.is_none())
    }

    /// In the place of what was known of the same scenario.
    fn put(&mut self, new: Entry) {
        self.0
            .retain(|old| !old.is_of(&new.era, &new.scenario, &new.pot));
        self.0.push(new);
    }

    fn of(&self, pots: &[(String, String)]) -> Vec<&Entry> {
        let of_these = |entry: &&Entry| {
            pots.iter()
                .any(|(era, pot)| entry.era == *era && entry.pot == *pot)
        };
        self.0.iter().filter(of_these).collect()
    }
}

fn counts(entries: &[&Entry]) -> Counts {
    let failed = entries
        .iter()
        .filter(|entry| entry.failure.is_some())
        .count();
    Counts {
        passed: entries.len() - failed,
        failed,
    }
}

/// A row for each scenario, a column for each era; a dash where there is no result.
fn table(pots: &[(String, String)], entries: &[&Entry]) -> String {
    let mut text = String::new();
    for (era, pot) in pots {
        let _ = writeln!(text, "The pot of {era}: `{pot}`  ");
    }
    let row = |first: &str, cells: &[String]| format!("| {first} | {} |\n", cells.join(" | "));
    let eras: Vec<String> = pots.iter().map(|(era, _)| era.clone()).collect();
    let rule = vec!["---".to_owned(); eras.len()];
    let _ = write!(text, "\n{}{}", row("scenario", &eras), row("---", &rule));
    for scenario in scenario::all() {
        let name = scenario.name();
        let cells: Vec<String> = pots
            .iter()
            .map(|(era, pot)| {
                let entry = entries.iter().find(|entry| entry.is_of(era, &name, pot));
                entry.map_or("–".to_owned(), |entry| entry.cell())
            })
            .collect();
        if cells.iter().any(|cell| cell != "–") {
            text.push_str(&row(&name, &cells));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(era: &str, scenario: &str, pot: &str, failure: Option<&str>) -> Entry {
        Entry {
            era: era.to_owned(),
            scenario: scenario.to_owned(),
            pot: pot.to_owned(),
            seconds: 34,
            told: None,
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn only_what_passed_with_the_same_pot_is_passed_over() {
        let era = "v1.20.2";
        let mut results = Results::default();
        results.put(entry("v1.20.2", "join", "aa", Some("stage run")));
        assert!(!results.passed(era, "join", "aa"));
        results.put(entry("v1.20.2", "join", "aa", None));
        assert_eq!(results.0.len(), 1, "the last result stands");
        assert!(results.passed(era, "join", "aa"));
        assert!(!results.passed(era, "join", "bb"));
        assert!(!results.passed(era, "leak", "aa"));
    }

    #[test]
    fn the_table_has_a_row_for_each_result_and_a_column_for_each_era() {
        let pots = [("v1.14.0", "aa"), ("v1.20.2-containerd-1.6", "bb")]
            .map(|(era, pot)| (era.to_owned(), pot.to_owned()));
        let mut results = Results::default();
        results.put(entry("v1.20.2-containerd-1.6", "join", "bb", None));
        results.put(entry("v1.14.0", "leak", "aa", Some("a | b")));
        results.put(entry("v1.14.0", "join", "older", None));
        let shown = results.of(&pots);
        let text = table(&pots, &shown);
        assert!(
            text.ends_with(
                "\n| scenario | v1.14.0 | v1.20.2-containerd-1.6 |\n| --- | --- | --- |\n\
                 | join | – | passed, 34 s |\n| leak | **failed**, 34 s: a \\| b | – |\n"
            ),
            "{text}"
        );
        assert_eq!(
            counts(&shown),
            Counts {
                passed: 1,
                failed: 1
            }
        );
    }
}
