//! The most memory that either side has at any time, for a small file and for a large one.

use anyhow::Result;

use crate::files::{self, Source};
use crate::machine::{self, Folder};
use crate::scale::Scale;
use crate::{table, ways};

pub fn peak_memory(scale: &Scale) -> Result<()> {
    let folder = Folder::in_memory(scale.largest)?;
    println!("Zeros that take no room, to {}; each side is to stay under 12 MiB.", folder.file_system);
    let mut rows = Vec::new();
    for way in [ways::defaults(), ways::zero_copy()] {
        for size in [1_000, scale.largest] {
            if !folder.has_room(size) {
                println!("left out: no room for {}", table::decimal_size(size));
                continue;
            }
            let source = Source::sparse(folder.file("source"), size)?;
            let destination = folder.file("destination");
            let cost = way.transfer(&source.path, &destination, None)?;
            files::compare(&source.path, &destination)?;
            files::remove(&destination)?;
            let peaks = [cost.sender.peak, cost.receiver.peak].map(table::size);
            rows.push([vec![way.name.to_owned(), table::decimal_size(size)], peaks.to_vec()].concat());
        }
    }
    if let Some(own) = machine::own_peak() {
        println!("A process starts as a copy of this bench, so {} is the least that can be seen.", table::size(own));
    }
    println!();
    table::print(&["", "file", "server", "client"], &rows);
    Ok(())
}
