//! Measures the pair beside other programs; `docs/performance.md` has the results.
//!
//!     cargo bench                 everything, about five minutes
//!     cargo bench -- disk         only the tables whose title contains the word
//!     cargo bench -- --quick      small files, one round: checks that everything runs, its figures mean nothing
//!
//! A new row is one line in `rows.rs`. No time makes this fail. Linux only.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod clients;
#[path = "../../tests/common/mod.rs"]
mod common;
mod peers;
mod report;
mod rows;
mod table;
mod transfer;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use bytesize::ByteSize;
use clap::Parser;
use procfs::{CpuInfo, Current as _, Meminfo};
use signal_hook::consts::{SIGINT, SIGTERM};

use peers::Peers;

#[derive(Parser)]
#[command(name = "cargo bench --", about = "Measures the pair beside other programs")]
struct Arguments {
    /// Only the tables whose title contains this [default: all]
    title: Option<String>,

    /// Small files and one round: checks that everything runs
    #[arg(long)]
    quick: bool,

    /// Passed by cargo bench, and not by cargo test
    #[arg(long, hide = true)]
    bench: bool,
}

/// What all tables have in common.
struct Bench {
    quick: bool,
    peers: Peers,
    interrupted: Arc<AtomicBool>,
}

impl Bench {
    /// Returns an error after SIGINT or SIGTERM, so that directories with gigabytes are removed.
    fn ensure_not_interrupted(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let interrupted = Arc::default();
    signal_hook::flag::register(SIGINT, Arc::clone(&interrupted))?;
    signal_hook::flag::register(SIGTERM, Arc::clone(&interrupted))?;
    let bench = Bench { quick: arguments.quick || !arguments.bench, interrupted, peers: Peers::prepare()? };
    println!("{}\n", machine()?);
    if bench.quick {
        println!("Quick: files of at most 4 MiB, one round\n");
    }

    let is_wanted = |title: &str| arguments.title.as_ref().is_none_or(|wanted| title.contains(wanted));
    let tables: Vec<_> = rows::TABLES.iter().filter(|table| is_wanted(table.title)).collect();
    table::touch_memory(tables.iter().map(|table| table.memory(&bench)).max().unwrap_or_default())?;
    for table in tables {
        table.run(&bench)?;
    }
    if is_wanted(clients::TITLE) { clients::run(&bench) } else { Ok(()) }
}

/// Describes this machine in one line.
fn machine() -> Result<String> {
    let model = CpuInfo::current()?.model_name(0).unwrap_or("unknown processor").to_owned();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let memory = ByteSize(Meminfo::current()?.mem_total).display().iec();
    Ok(format!("{} cores, {model}, Linux {}, {memory} of memory", thread::available_parallelism()?, kernel.trim()))
}
