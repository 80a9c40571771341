//! The main job: a server in one terminal, a client in another, any content, any size.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs;

use common::{Server, assert_same, content, file_client, folder, names_in, run};

/// One transfer from one folder to another; everything that a user would notice is as it should be.
fn transfers(bytes: &[u8], server_arguments: &[&str], client_arguments: &[&str]) {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("des.txt"), bytes).unwrap();
    let server = Server::start(there.path(), server_arguments);
    let client = run(&mut file_client(here.path(), server.port, client_arguments));
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    assert_eq!(client.stdout(), format!("Received file data: {} bytes in destination.txt\n", bytes.len()));
    assert_eq!(client.stderr(), "");
    assert_eq!(server.stdout(), "Message from client: Thank you\n");
    assert_same(&fs::read(here.path().join("destination.txt")).unwrap(), bytes, "destination.txt");
    assert_eq!(names_in(here.path()), ["destination.txt"]);
}

#[test]
fn every_size_around_a_chunk_arrives() {
    for size in [0, 1, 29, 30, 31, 59, 60, 61] {
        transfers(&content(size, 1), &[], &[]);
    }
}
