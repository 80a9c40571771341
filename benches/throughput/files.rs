//! The files that are moved, and whether they arrived.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::common::content;

/// Small, because what this process holds shows in the peak memory of those that it starts.
const BLOCK: usize = 256 * 1024;

/// A file to move, and its size in bytes.
pub struct Source {
    pub path: PathBuf,
    pub size: u64,
}

impl Source {
    /// Bytes without a pattern.
    pub fn random(path: PathBuf, size: u64) -> Result<Self> {
        let mut file = BufWriter::new(File::create(&path)?);
        let (mut left, mut seed) = (size, 0);
        while left > 0 {
            let bytes = usize::try_from(left)?.min(BLOCK);
            file.write_all(&content(bytes, seed))?;
            left -= bytes as u64;
            seed += 1;
        }
        file.flush()?;
        Ok(Self { path, size })
    }

    /// Zeros that take no room.
    pub fn sparse(path: PathBuf, size: u64) -> Result<Self> {
        File::create(&path)?.set_len(size)?;
        Ok(Self { path, size })
    }
}

/// Fails unless both have the same bytes.
pub fn compare(expected: &Path, actual: &Path) -> Result<()> {
    let (mut a, mut b) = (File::open(expected)?, File::open(actual)?);
    let mut buffers = (vec![0; BLOCK], vec![0; BLOCK]);
    let sizes = (a.metadata()?.len(), b.metadata()?.len());
    let mut left = sizes.0;
    while left > 0 && sizes.0 == sizes.1 {
        let bytes = usize::try_from(left)?.min(BLOCK);
        a.read_exact(&mut buffers.0[..bytes])?;
        b.read_exact(&mut buffers.1[..bytes])?;
        if buffers.0[..bytes] != buffers.1[..bytes] {
            break;
        }
        left -= bytes as u64;
    }
    if left > 0 || sizes.0 != sizes.1 {
        bail!("{} is not the same as {}", actual.display(), expected.display());
    }
    Ok(())
}

/// Removes what an earlier transfer left.
pub fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    Ok(())
}
