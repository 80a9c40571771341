//! One file, moved in several ways: through memory, by the kernel alone, to a disk, and a small one.

use std::fs;

use anyhow::Result;

use crate::chart::{self, Bar};
use crate::files::Source;
use crate::machine::{self, Folder};
use crate::rounds::{Course, Series};
use crate::scale::Scale;
use crate::{table, ways};

/// How many times as fast as these the pair should be.
const TARGETS: [(&str, f64); 6] = [
    ("cp", 0.9),
    ("nc", 2.5),
    ("ncat", 2.5),
    ("socat", 3.0),
    ("socat -b262144", 1.3),
    ("the textbook pair in C", 30.0),
];

pub fn memory_to_memory(scale: &Scale) -> Result<()> {
    let folder = Folder::in_memory(2 * scale.size + scale.slow_size)?;
    let source = Source::random(folder.file("source"), scale.size)?;
    let small = Source::random(folder.file("small"), scale.slow_size)?;
    let all = [
        ways::cp(),
        Some(ways::defaults()),
        Some(ways::pair("the pair --chunk-size 64KiB", &["--chunk-size", "64KiB"], &[])),
        Some(ways::zero_copy()),
        ways::nc(),
        ways::ncat(),
        ways::socat(),
        ways::socat_with_large_buffers(),
        ways::textbook(),
    ];
    let ways: Vec<_> = all.into_iter().flatten().collect();
    let course = Course { source: &source, slow_source: &small, folder: &folder, rounds: scale.rounds };
    let all = course.run(&ways)?;
    describe(&source, &folder, scale.rounds);
    if ways.iter().any(|way| way.slow) {
        println!("(the textbook pair: {}, counted by the byte)\n", table::size(small.size));
    }
    let pair = speed_of("the pair", &all);
    let row = |series: &Series| {
        let gain = pair.map_or_else(String::new, |pair| format!("{:.2}", pair / series.speed()));
        let target = TARGETS.iter().find(|(name, _)| *name == series.name);
        let target = target.map_or_else(String::new, |(_, times)| format!("{times:.1}"));
        let mut row = speeds(series, &all);
        row.extend([gain, target]);
        row
    };
    let header = ["", "median", "least - most", "speed", "of cp", "the pair is times as fast", "to be at least"];
    table::print(&header, &all.iter().map(row).collect::<Vec<_>>());
    draw(&all, &source, scale)
}

pub fn by_the_kernel(scale: &Scale) -> Result<()> {
    let folder = Folder::in_memory(2 * scale.size)?;
    let source = Source::random(folder.file("source"), scale.size)?;
    let course = Course { source: &source, slow_source: &source, folder: &folder, rounds: scale.rounds };
    let all = course.run(&[ways::defaults(), ways::zero_copy()])?;
    describe(&source, &folder, scale.rounds);
    let row = |series: &Series| {
        let server = table::time(series.median_of(|cost| cost.sender.processor));
        let client = table::time(series.median_of(|cost| cost.receiver.processor));
        let spread = table::spread(series.least_and_most());
        vec![series.name.to_owned(), table::time(series.median()), spread, server, client]
    };
    let header = ["", "median", "least - most", "server's processor", "client's processor"];
    table::print(&header, &all.iter().map(row).collect::<Vec<_>>());
    if let [defaults, zero_copy] = &all[..] {
        let times = defaults.median().as_secs_f64() / zero_copy.median().as_secs_f64();
        println!("\nThe defaults take {times:.2} times as long as --zero-copy (to be at most 1.25).");
    }
    Ok(())
}

pub fn to_a_disk(scale: &Scale) -> Result<()> {
    let (memory, disk) = (Folder::in_memory(scale.size)?, Folder::on_disk()?);
    if !disk.has_room(scale.size) {
        println!("left out: no room for {} on {}", table::size(scale.size), disk.file_system);
        return Ok(());
    }
    let source = Source::random(memory.file("source"), scale.size)?;
    let all = [Some(ways::defaults()), Some(ways::zero_copy()), ways::dd(), ways::nc_then_sync()];
    let ways: Vec<_> = all.into_iter().flatten().collect();
    let course = Course { source: &source, slow_source: &source, folder: &disk, rounds: scale.rounds };
    let all = course.run(&ways)?;
    describe(&source, &disk, scale.rounds);
    let row = |series: &Series| {
        let spread = table::spread(series.least_and_most());
        vec![series.name.to_owned(), table::time(series.median()), spread, table::speed(series.speed())]
    };
    table::print(&["", "median", "least - most", "speed"], &all.iter().map(row).collect::<Vec<_>>());
    if let Some((pair, dd)) = speed_of("the pair", &all).zip(speed_of("dd bs=1M conv=fsync", &all)) {
        println!("\nThe pair runs at {:.2} of dd's speed (to be at least 0.9).", pair / dd);
    }
    Ok(())
}

pub fn small_file(scale: &Scale) -> Result<()> {
    let disk = Folder::on_disk()?;
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("des.txt");
    let source = Source { size: fs::metadata(&path)?.len(), path };
    let without_sync = ways::pair("the pair --no-sync", &[], &["--no-sync"]);
    let all = [Some(ways::defaults()), Some(without_sync), ways::textbook()];
    let ways: Vec<_> = all.into_iter().flatten().collect();
    let course = Course { source: &source, slow_source: &source, folder: &disk, rounds: scale.small_file_rounds };
    let all = course.run(&ways)?;
    describe(&source, &disk, scale.small_file_rounds);
    let row = |series: &Series| {
        let spread = table::spread(series.least_and_most());
        vec![series.name.to_owned(), table::time(series.median()), spread]
    };
    table::print(&["", "median", "least - most"], &all.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

fn describe(source: &Source, to: &Folder, rounds: usize) {
    println!("{} to {}, rounds: {rounds}\n", table::size(source.size), to.file_system);
}

fn speed_of(name: &str, all: &[Series]) -> Option<f64> {
    all.iter().find(|series| series.name == name).map(Series::speed)
}

fn speeds(series: &Series, all: &[Series]) -> Vec<String> {
    let of_cp = speed_of("cp", all).map_or_else(String::new, |cp| format!("{:.2}", series.speed() / cp));
    let name = series.name.to_owned();
    let spread = table::spread(series.least_and_most());
    vec![name, table::time(series.median()), spread, table::speed(series.speed()), of_cp]
}

fn draw(all: &[Series], source: &Source, scale: &Scale) -> Result<()> {
    let bar = |series: &Series| Bar {
        label: series.name.to_owned(),
        speed: series.speed(),
        note: table::speed(series.speed()),
        ours: series.name.starts_with("the pair"),
    };
    let mut bars: Vec<_> = all.iter().map(bar).collect();
    bars.sort_by(|a, b| b.speed.total_cmp(&a.speed));
    let title = format!("{} from memory to memory over loopback", table::size(source.size));
    fs::write(&scale.chart, chart::svg(&title, &machine::describe(), &bars))?;
    println!("\nchart: {}", scale.chart.display());
    Ok(())
}
