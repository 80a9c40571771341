//! What the tests share. [`fixture`] is where to start: a source directory, a destination directory, and the two
//! programs run between them.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

pub mod disk;
pub mod files;
pub mod fixture;
pub mod messages;
pub mod model;
pub mod network;
pub mod processes;
pub mod proxy;
pub mod random;
pub mod requirements;
pub mod stranger;
pub mod terminal;
pub mod trace;
pub mod wait;

pub use files::{assert_same, content, directory, names_in, sha256};
pub use fixture::{Fixture, Outcome};
pub use processes::{
    FILE_CLIENT, FILE_SERVER, Finished, Running, Server, Signal, file_client, file_server, program, run,
};
pub use requirements::{
    c_program, has_ipv6, has_unnamed_files, installed, is_root, report_skipped, static_program, strace,
    user_space_file_system,
};
pub use wait::{DEADLINE, wait_until};
