//! The pair beside its peers.
//!
//!     cargo bench                 everything, about 6 minutes; writes benches/throughput.svg
//!     cargo bench -- --quick      everything in small, some seconds: that it still runs, no figures worth keeping
//!     cargo bench -- 1 3          these sections only
//!
//! Every way of moving a file is run as whole processes, from the start of the first to the end of the last, in rounds
//! in which each way has its turn; a first round, not timed, compares every byte that arrived. Figures are medians with
//! the least and the most. Destinations are removed and disks are quiet before each transfer. Leave the machine alone
//! meanwhile. Nothing here fails because of a time.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

mod calls;
mod chart;
#[path = "../../tests/common/mod.rs"]
mod common;
mod files;
mod growth;
mod machine;
mod memory;
mod moves;
mod process;
mod rounds;
mod scale;
mod table;
mod ways;

use anyhow::Result;
use clap::Parser;

use crate::scale::Scale;

type Section = (&'static str, fn(&Scale) -> Result<()>);

const SECTIONS: [Section; 7] = [
    ("From memory to memory over loopback", moves::memory_to_memory),
    ("Moved by the kernel alone: --zero-copy", moves::by_the_kernel),
    ("To a disk, and on it before it counts as stored", moves::to_a_disk),
    ("Peak memory", memory::peak_memory),
    ("A small file, from start to end of both processes", moves::small_file),
    ("Time grows with the work", growth::growth),
    ("System calls for each GiB", calls::system_calls),
];

#[derive(Parser)]
#[command(name = "cargo bench --", about = "Measures the pair beside its peers")]
struct Arguments {
    /// Sections to run [default: all]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=7))]
    sections: Vec<u8>,

    /// Small files and few rounds
    #[arg(long)]
    quick: bool,

    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.bench {
        println!("run me with `cargo bench`");
        return Ok(());
    }
    half_close::interrupt::on_interrupt(machine::discard_folders)?;
    let scale = if arguments.quick { Scale::quick() } else { Scale::full() };
    println!("{}", machine::describe());
    for (number, (title, run)) in (1..).zip(SECTIONS) {
        if arguments.sections.is_empty() || arguments.sections.contains(&number) {
            println!("\n{number}. {title}\n");
            run(&scale)?;
        }
    }
    Ok(())
}
