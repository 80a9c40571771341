//! A disk that is slow but works: neither side takes it for a stall, although to sync the whole file takes longer than
//! the timeout.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::disk::{LoopDevice, slow_disk, slow_image};
use crate::common::files::assert_file;
use crate::common::processes::{after, run, through};
use crate::common::{Fixture, Outcome, Server, assert_same, content, directory, file_client};

/// Fourteen seconds at the speed of the disk.
const SIZE: usize = 42_000_000;
const BYTES_IN_A_SECOND: u32 = 3_000_000;
const TIMEOUT: &str = "--timeout=8s";

/// In a network of its own whose receive buffers are small: what waits in them is written after the end, too.
fn send(client: impl FnOnce(u16) -> Command) {
    let fixture = Fixture::new(content(SIZE, 1));
    let small_buffers = "ip link set lo up && echo 4096 131072 1000000 > /proc/sys/net/ipv4/tcp_rmem";
    let server = after(small_buffers, &fixture.server_command(&[TIMEOUT]));
    let server = Server::start(&mut through(&["unshare", "--net"], &server));
    let network = format!("--net=/proc/{}/ns/net", server.running.pid().as_raw_nonzero());
    let client = run(&mut through(&["nsenter", &network], &client(server.port)));
    Outcome { client, server: server.finish() }.assert_stored();
}

fn assert_stored(client: impl FnOnce(u16) -> Command, file: &Path) {
    send(client);
    assert_file(file, &content(SIZE, 1));
}

#[test]
fn a_file_on_a_slow_disk_is_stored() {
    let Some((disk, _below)) = slow_disk(BYTES_IN_A_SECOND) else { return };
    let here = disk.subdirectory();
    assert_stored(|port| file_client(&here, port, &[TIMEOUT]), &here.join("destination.txt"));
}

#[test]
fn standard_output_into_a_file_on_a_slow_disk_is_stored() {
    let Some((disk, _below)) = slow_disk(BYTES_IN_A_SECOND) else { return };
    let here = disk.subdirectory();
    let client = |port| after("exec > all", &file_client(&here, port, &[TIMEOUT, "--output", "-"]));
    assert_stored(client, &here.join("all"));
}

#[test]
fn a_slow_device_is_written() {
    let Some((_below, image)) = slow_image(BYTES_IN_A_SECOND) else { return };
    let (here, device) = (directory(), LoopDevice::of(&image));
    send(|port| file_client(here.path(), port, &[TIMEOUT, "--output", &device.0]));
    drop(device);
    assert_same(&fs::read(image).unwrap()[..SIZE], &content(SIZE, 1), "the device");
}
