//! Random choices that can be repeated.
#![allow(clippy::print_stdout, reason = "prints the seed, by which a failure can be repeated")]

use std::time::SystemTime;

/// A generator of random numbers (`SplitMix64`).
pub struct Random(u64);

impl Random {
    /// Starts from `HALF_CLOSE_SEED`, or else from the time; prints which.
    pub fn seeded() -> Self {
        let given = std::env::var("HALF_CLOSE_SEED").ok().map(|seed| seed.parse().unwrap());
        let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        let seed = given.unwrap_or_else(|| now().into());
        println!("to repeat these choices: HALF_CLOSE_SEED={seed}");
        Self(seed)
    }

    /// A generator for another thread.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
