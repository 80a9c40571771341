//! How much of everything is measured: in full, or in small so that the bench itself can't rot.

use std::path::{Path, PathBuf};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

pub struct Scale {
    /// The file that is moved.
    pub size: u64,
    /// The file for slow ways.
    pub slow_size: u64,
    pub rounds: usize,
    pub small_file_rounds: usize,
    /// The largest file.
    pub largest: u64,
    pub growth_rounds: usize,
    pub clients: &'static [usize],
    /// The file for slow ways under strace.
    pub slow_traced_size: u64,
    pub chart: PathBuf,
}

impl Scale {
    pub fn full() -> Self {
        Self {
            size: GIB,
            slow_size: 64 * MIB,
            rounds: 11,
            small_file_rounds: 100,
            largest: 10_000_000_000,
            growth_rounds: 5,
            clients: &[1, 10, 100, 1_000],
            slow_traced_size: MIB,
            chart: Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/throughput.svg"),
        }
    }

    pub fn quick() -> Self {
        Self {
            size: 16 * MIB,
            slow_size: MIB,
            rounds: 1,
            small_file_rounds: 3,
            largest: 100_000_000,
            growth_rounds: 1,
            clients: &[1, 10],
            slow_traced_size: MIB / 8,
            chart: Path::new(env!("CARGO_TARGET_TMPDIR")).join("throughput.svg"),
        }
    }
}
