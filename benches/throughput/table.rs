//! Runs the rows of a table in turn and prints medians, so that what else the machine does affects all rows alike.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::Bench;
use crate::report;
use crate::transfer::{Cost, Way};

/// In a command, the digest of the source.
const SHA256: &str = "{sha256}";

/// What is measured together.
pub struct Table {
    pub title: &'static str,
    pub place: Place,
    /// Timed transfers for each row.
    pub rounds: usize,
    pub rows: &'static [Row],
}

/// Where the files are stored. They are always read from memory.
#[derive(Clone, Copy)]
pub enum Place {
    Memory,
    Disk,
}

/// One way of moving a file of that many bytes.
pub struct Row {
    pub name: &'static str,
    pub bytes: u64,
    /// See [`Way`].
    pub commands: &'static [&'static str],
}

impl Row {
    pub const fn new(name: &'static str, bytes: u64, commands: &'static [&'static str]) -> Self {
        Self { name, bytes, commands }
    }
}

/// A row whose programs are installed, and what its transfers cost.
struct Series {
    name: &'static str,
    bytes: u64,
    source: PathBuf,
    way: Way,
    costs: Vec<Cost>,
}

impl Table {
    /// Bytes of memory for all of its sources and a destination.
    pub fn memory(&self, bench: &Bench) -> u64 {
        let sizes: BTreeSet<_> = self.rows.iter().map(|row| row.size(bench)).collect();
        sizes.iter().sum::<u64>() + sizes.last().unwrap_or(&0)
    }

    /// In a first round, which is not timed, every byte that arrives is compared.
    pub fn run(&self, bench: &Bench) -> Result<()> {
        let (sources, destinations) = (directory(Place::Memory)?, directory(self.place)?);
        let rounds = if bench.quick { 1 } else { self.rounds };
        println!("## {}\n\nStored on {}, {rounds} rounds\n", self.title, file_system(destinations.path())?);

        let all: Result<Vec<_>> = self.rows.iter().map(|row| row.prepare(bench, sources.path())).collect();
        let mut all: Vec<_> = all?.into_iter().flatten().collect();
        let destination = destinations.path().join("destination");
        for round in 0..=rounds {
            for series in &mut all {
                bench.ensure_not_interrupted()?;
                series.transfer(&destination, round > 0).with_context(|| series.name)?;
            }
        }
        print(&all);
        Ok(())
    }
}

impl Row {
    fn size(&self, bench: &Bench) -> u64 {
        if bench.quick { self.bytes.min(4 << 20) } else { self.bytes }
    }

    /// Returns `None` if a program is not installed.
    fn prepare(&self, bench: &Bench, sources: &Path) -> Result<Option<Series>> {
        let bytes = self.size(bench);
        let source = random_file(sources, bytes)?;
        let needs_digest = self.commands.iter().any(|command| command.contains(SHA256));
        let digest = if needs_digest { Some(sha256(&source)?) } else { None };
        let values = [&[(SHA256, digest)], bench.peers.values()].concat();
        let Some(way) = Way::parse(self.commands, &values)? else { return Ok(None) };
        Ok(Some(Series { name: self.name, bytes, source, way, costs: Vec::new() }))
    }
}

impl Series {
    fn transfer(&mut self, destination: &Path, is_timed: bool) -> Result<()> {
        let directory = destination.parent().unwrap_or(destination);
        // What an earlier transfer wrote would otherwise be written during this one.
        check(Command::new("sync").arg("-f").arg(directory))?;
        let cost = self.way.transfer(&self.source, destination)?;
        if is_timed {
            self.costs.push(cost);
        } else {
            check(Command::new("cmp").arg(&self.source).arg(destination))?;
        }
        Ok(fs::remove_file(destination)?)
    }

    fn times(&self) -> Vec<Duration> {
        let mut times: Vec<_> = self.costs.iter().map(|cost| cost.time).collect();
        times.sort();
        times
    }

    fn median(&self) -> Duration {
        let times = self.times();
        times[times.len() / 2]
    }

    /// In bytes per second.
    fn speed(&self) -> u64 {
        let microseconds = u64::try_from(self.median().as_micros()).unwrap_or(u64::MAX);
        self.bytes * 1_000_000 / microseconds
    }

    /// The most memory that each of the processes used in any round.
    fn peaks(&self) -> String {
        let processes = self.costs.iter().map(|cost| cost.peaks.len()).max().unwrap_or_default();
        let peak = |process: usize| self.costs.iter().map(|cost| cost.peaks[process]).max().unwrap_or_default();
        (0..processes).map(|process| report::size(peak(process))).collect::<Vec<_>>().join(", ")
    }
}

fn print(all: &[Series]) {
    let Some(first) = all.first() else { return };
    let fastest = all.iter().map(Series::speed).max().unwrap_or_default();
    let row = |series: &Series| {
        let (times, speed) = (series.times(), series.speed());
        vec![
            series.name.to_owned(),
            report::time(series.median()),
            format!("{} - {}", report::time(times[0]), report::time(times[times.len() - 1])),
            report::speed(speed),
            format!("{} {}", report::ratio(speed, first.speed()), report::bar(speed, fastest)),
            series.peaks(),
        ]
    };
    let header = ["", "median", "least - most", "speed", "of the first row's speed", "peak memory of each process"];
    report::print(&header, &all.iter().map(row).collect::<Vec<_>>());
}

/// Returns a new directory, removed when dropped.
pub fn directory(place: Place) -> Result<TempDir> {
    let parent = match place {
        Place::Memory => "/dev/shm",
        Place::Disk => env!("CARGO_TARGET_TMPDIR"),
    };
    let directory = tempfile::Builder::new().prefix("half-close-bench-").tempdir_in(parent);
    directory.with_context(|| format!("could not create a directory in {parent}"))
}

/// Makes a file of random bytes, or finds the one of an earlier row.
pub fn random_file(directory: &Path, bytes: u64) -> Result<PathBuf> {
    let path = directory.join(format!("source-{bytes}"));
    if !path.exists() {
        io::copy(&mut File::open("/dev/urandom")?.take(bytes), &mut File::create(&path)?)?;
    }
    Ok(path)
}

/// Writes a file to memory and removes it: where a machine has not used its memory yet, the first to do so waits for it.
pub fn touch_memory(bytes: u64) -> Result<()> {
    let directory = directory(Place::Memory)?;
    io::copy(&mut io::repeat(0).take(bytes), &mut File::create(directory.path().join("zeros"))?)?;
    Ok(())
}

fn sha256(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("could not run sha256sum")?;
    let digest = String::from_utf8(output.stdout)?.split(' ').next().map(str::to_owned);
    digest.context("sha256sum prints no digest")
}

fn file_system(directory: &Path) -> Result<String> {
    let output = Command::new("df").arg("--output=fstype").arg(directory).output().context("could not run df")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().nth(1).unwrap_or("?").to_owned())
}

fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
