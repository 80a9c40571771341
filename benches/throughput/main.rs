//! The pair beside its peers.
//!
//!     cargo bench                 everything, about six minutes; writes benches/throughput.svg
//!     cargo bench -- --quick      everything in small, some seconds: that it still runs, no figures worth keeping
//!     cargo bench -- 1 3          these sections only
//!
//! Every way of moving a file is run as whole processes, from the start of the first to the end of the last, in rounds
//! in which each way has its turn; a first round, not timed, compares every byte that arrived. Figures are medians with
//! the least and the most. Destinations are removed and disks are quiet before each transfer. Leave the machine alone
//! meanwhile: a compiler beside it is seen in every figure. Nothing here fails because of a time.
//!
//! What a GiB costs (section 7, Linux 6.18): the server reads and sends 120 KiB at a time, 2 x 8,739 system calls, or
//! 1,024 with `--zero-copy`; the client splices what has arrived, 2,000 to 20,000 depending on how far the server is
//! ahead. A system call a chunk, as in the textbook, would be 2 x 36 million.
//!
//! Where the time goes (`perf record -g`): the client is the one that is busy, and 92 % of its time is writing into the
//! file, most of it finding and accounting pages of memory, which cp has to do too, a fifth of it copying; the network's
//! part of it is 5 %. The server needs two thirds as much.
//!
//! Before the queue for a client on this machine was short and pieces filled whole pages, the pair took 440 ms for the
//! GiB beside 373 ms for cp, and with `--zero-copy` the server 360 ms of processor time: with megabytes queued, what the
//! client read was no longer in the cache, and each side had to wake the other. A queue of 416 KiB made that 392 ms
//! (zero copies: 366 ms, 122 ms of processor time), whole pages 375 ms.
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
