//! System calls of either side, as strace counts them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::common::installed;
use crate::files::{self, Source};
use crate::machine::Folder;
use crate::scale::{GIB, Scale};
use crate::ways::Counting;
use crate::{table, ways};

/// Names of calls that are told, most frequent first.
const TOLD: usize = 3;

pub fn system_calls(scale: &Scale) -> Result<()> {
    let Some(strace) = installed("strace") else { return Ok(()) };
    let folder = Folder::in_memory(2 * scale.size)?;
    let source = Source::random(folder.file("source"), scale.size)?;
    let small = Source::random(folder.file("small"), scale.slow_traced_size)?;
    let all = [Some(ways::defaults()), Some(ways::zero_copy()), ways::nc(), ways::textbook()];
    let mut rows = Vec::new();
    for way in all.into_iter().flatten() {
        let source = if way.slow { &small } else { &source };
        let destination = folder.file("destination");
        let (sender, receiver) = (folder.file("sender"), folder.file("receiver"));
        let counting = Counting { strace: strace.clone(), sender: sender.clone(), receiver: receiver.clone() };
        way.transfer(&source.path, &destination, Some(&counting))?;
        files::compare(&source.path, &destination)?;
        files::remove(&destination)?;
        rows.push(vec![way.name.to_owned(), calls(&sender, source.size)?, calls(&receiver, source.size)?]);
    }
    println!("Counted over {}, the textbook pair over {}.\n", table::size(source.size), table::size(small.size));
    table::print(&["", "sender", "receiver"], &rows);
    Ok(())
}

/// All calls for a GiB, and the most frequent ones.
fn calls(counts: &Path, size: u64) -> Result<String> {
    let text = fs::read_to_string(counts)?;
    let mut calls: Vec<_> = text.lines().filter_map(count_and_name).collect();
    calls.sort_by(|a, b| b.cmp(a));
    let total = calls.iter().position(|(_, name)| *name == "total").context("strace counted nothing")?;
    let (total, _) = calls.remove(total);
    let frequent: Vec<_> = calls.iter().take(TOLD).map(|(_, name)| *name).collect();
    Ok(format!("{} ({})", total * GIB / size, frequent.join(", ")))
}

/// `% time, seconds, usecs/call, calls, errors (if any), name`
fn count_and_name(line: &str) -> Option<(u64, &str)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    Some((fields.get(3)?.parse().ok()?, fields.last()?))
}
