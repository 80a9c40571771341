//! Many clients at once. They are threads of this process, so that what is measured is the server.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use half_close::protocol::THANK_YOU;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::table::{Place, directory, random_file};
use crate::transfer::CommandLine;
use crate::{Bench, report};

pub const TITLE: &str = "Many clients at once, 1 MiB each";

pub fn run(bench: &Bench) -> Result<()> {
    const MIB: u64 = 1 << 20;
    println!("## {TITLE}\n");
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let directory = directory(Place::Memory)?;
    let source = random_file(directory.path(), MIB)?;
    let mut rows = Vec::new();
    for count in if bench.quick { [1, 20] } else { [1, 1_000] } {
        bench.ensure_not_interrupted()?;
        let server = format!("file-server --bind 127.0.0.1 --quiet --clients {count} --file {{from}} {{port}}");
        let server = CommandLine::parse(&server, &[])?.context("the server is built by cargo")?;
        let (server, port) = server.listen(&source, Path::new(""))?;
        let started = Instant::now();
        fetch_all(port, count, MIB)?;
        let peak = server.finish()?;
        let time = started.elapsed();
        rows.push(vec![count.to_string(), report::time(time), report::time(time / count), report::size(peak)]);
    }
    report::print(&["clients", "time", "time for each", "peak memory of the server"], &rows);
    Ok(())
}

fn fetch_all(port: u16, count: u32, bytes: u64) -> Result<()> {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..count).map(|_| scope.spawn(move || fetch(port, bytes))).collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    })
}

fn fetch(port: u16, bytes: u64) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let received = io::copy(&mut stream, &mut io::sink())?;
    ensure!(received == bytes, "a client received {received} bytes");
    Ok(stream.write_all(THANK_YOU)?)
}
