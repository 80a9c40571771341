//! The file system after a transfer and during one: the whole file or none, under the name that was asked for, with the
//! right mode, and no leftover files.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

#[path = "../common/mod.rs"]
mod common;

mod acl;
mod atomicity;
mod descriptors;
mod durability;
mod elsewhere;
mod file_systems;
mod modes;
mod names;
mod no_space;
mod planted;
mod signals;
mod slow_disk;
mod special;
mod stalled_server;
mod sweep;
mod temporary_names;
mod unreplaceable;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use common::network::Listener;
use common::{file_client, run};

/// `file-client` with one more `--output`, which need not be text.
fn client_to(directory: &Path, port: u16, output: impl AsRef<OsStr>) -> Command {
    let mut command = file_client(directory, port, &["--output"]);
    command.arg(output);
    command
}

/// Fails unless the client reports this reason before it connects, so that a waiting server is not used up.
#[track_caller]
fn assert_refused(reason: &str, client: impl FnOnce(u16) -> Command) {
    let listener = Listener::new();
    let client = run(&mut client(listener.port()));
    assert_eq!((client.status, client.stderr()), (1, format!("file-client: {reason}\n")), "{client:?}");
    listener.assert_unused();
}
