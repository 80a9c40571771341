//! Rounds in which every way has its turn, so that what else happens on the machine meets all of them alike.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::files::{self, Source};
use crate::machine::Folder;
use crate::ways::{Cost, Way};

/// What is moved, and where to.
pub struct Course<'a> {
    pub source: &'a Source,
    pub slow_source: &'a Source,
    pub folder: &'a Folder,
    pub rounds: usize,
}

/// All that one way cost in all rounds.
pub struct Series {
    pub name: &'static str,
    pub bytes: u64,
    costs: Vec<Cost>,
}

impl Series {
    pub fn median(&self) -> Duration {
        self.median_of(|cost| cost.wall)
    }

    /// The middle one; of an even number the later of the two.
    pub fn median_of(&self, figure: impl Fn(&Cost) -> Duration) -> Duration {
        let mut figures: Vec<_> = self.costs.iter().map(figure).collect();
        figures.sort();
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    }

    pub fn least_and_most(&self) -> (Duration, Duration) {
        let walls = || self.costs.iter().map(|cost| cost.wall);
        (walls().min().unwrap_or_default(), walls().max().unwrap_or_default())
    }

    /// Bytes in a second, in the median.
    pub fn speed(&self) -> f64 {
        self.bytes_as_f64() / self.median().as_secs_f64().max(1e-9)
    }

    #[expect(clippy::cast_precision_loss, reason = "no file is that large")]
    pub fn bytes_as_f64(&self) -> f64 {
        self.bytes as f64
    }
}

impl Course<'_> {
    /// One round to warm up, whose bytes are compared and whose time is not taken; then the rounds that count.
    pub fn run(&self, ways: &[Way]) -> Result<Vec<Series>> {
        let fresh = |way: &Way| Series { name: way.name, bytes: self.source_of(way).size, costs: Vec::new() };
        let mut all: Vec<_> = ways.iter().map(fresh).collect();
        for round in 0..=self.rounds {
            for (way, series) in ways.iter().zip(&mut all) {
                let cost = self.transfer(way, round == 0).with_context(|| way.name)?;
                if round > 0 {
                    series.costs.push(cost);
                }
            }
        }
        Ok(all)
    }

    fn source_of(&self, way: &Way) -> &Source {
        if way.slow { self.slow_source } else { self.source }
    }

    fn transfer(&self, way: &Way, check: bool) -> Result<Cost> {
        let source = self.source_of(way);
        let destination = self.folder.file("destination");
        files::remove(&destination)?;
        self.folder.settle()?;
        let cost = way.transfer(&source.path, &destination, None)?;
        if check {
            files::compare(&source.path, &destination)?;
        }
        files::remove(&destination)?;
        Ok(cost)
    }
}
