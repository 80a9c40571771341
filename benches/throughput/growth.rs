//! Time for each byte as files grow, and time for each client as they become many.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use half_close::protocol::THANK_YOU;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::files::Source;
use crate::machine::Folder;
use crate::process::{Invocation, Usage, start_on_free_port};
use crate::rounds::{Course, Series};
use crate::scale::{MIB, Scale};
use crate::{table, ways};

pub fn growth(scale: &Scale) -> Result<()> {
    bytes(scale)?;
    println!();
    clients(scale)
}

/// What an empty file takes is the programs' start and end, and no byte's.
fn bytes(scale: &Scale) -> Result<()> {
    let folder = Folder::in_memory(scale.largest)?;
    println!("Zeros that take no room, to {}, {} rounds\n", folder.file_system, scale.growth_rounds);
    let empty = transfers(&folder, 0, scale)?;
    let mut rows =
        vec![vec!["empty file".to_owned(), table::time(empty.first().map_or(Duration::ZERO, Series::median))]];
    for size in [1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000] {
        if size > scale.largest {
            break;
        }
        let name = table::decimal_size(size);
        if !folder.has_room(size) {
            println!("left out: no room for {name}");
            continue;
        }
        let all = transfers(&folder, size, scale)?;
        let a_byte = |(series, empty): (&Series, &Series)| {
            let beyond = series.median().saturating_sub(empty.median());
            format!("{:.3} ns", beyond.as_secs_f64() * 1e9 / series.bytes_as_f64())
        };
        let pair = all.first().context("nothing was measured")?;
        let mut row = vec![name, table::time(pair.median()), table::spread(pair.least_and_most())];
        row.extend(all.iter().zip(&empty).map(a_byte));
        rows.push(row);
    }
    println!("Time for each byte is what the empty file does not take.");
    table::print(&["", "median", "least - most", "a byte", "a byte with cp"], &rows);
    Ok(())
}

/// The pair, and beside it cp, which meets the same memory.
fn transfers(folder: &Folder, size: u64, scale: &Scale) -> Result<Vec<Series>> {
    let source = Source::sparse(folder.file("source"), size)?;
    let course = Course { source: &source, slow_source: &source, folder, rounds: scale.growth_rounds };
    let ways: Vec<_> = [Some(ways::defaults()), ways::cp()].into_iter().flatten().collect();
    course.run(&ways)
}

/// The clients are threads of this process, so that the figures are the server's.
fn clients(scale: &Scale) -> Result<()> {
    let folder = Folder::in_memory(MIB)?;
    let source = Source::random(folder.file("source"), MIB)?;
    let expected = fs::read(&source.path)?;
    println!(
        "{} for each client; clients are threads of this bench; {} rounds\n",
        table::size(MIB),
        scale.growth_rounds
    );
    allow_many_connections();
    let mut rows = Vec::new();
    for &count in scale.clients {
        let mut rounds =
            (0..scale.growth_rounds).map(|_| serve(count, &source, &expected)).collect::<Result<Vec<_>>>()?;
        rounds.sort_by_key(|(wall, _)| *wall);
        let (wall, usage) = rounds[rounds.len() / 2];
        let each = wall / u32::try_from(count)?;
        let processor = usage.processor / u32::try_from(count)?;
        let name = format!("{count} at once");
        rows.push(vec![name, table::time(wall), table::time(each), table::time(processor), table::size(usage.peak)]);
    }
    table::print(&["clients", "median", "a client", "server's processor, a client", "server's peak memory"], &rows);
    Ok(())
}

/// From the first connection to the end of the server, which is quiet because nobody reads its lines meanwhile.
fn serve(count: usize, source: &Source, expected: &[u8]) -> Result<(Duration, Usage)> {
    let file_server = |port: u16| {
        let (port, count) = (port.to_string(), count.to_string());
        let server = Invocation::new(env!("CARGO_BIN_EXE_file-server")).with(["--bind", "127.0.0.1", &port]);
        server.with(["--quiet", "--clients", &count, "--file"]).with([&source.path])
    };
    let (server, port) = start_on_free_port(file_server)?;
    let started = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..count).map(|_| scope.spawn(move || fetch(port, expected))).collect();
        clients.into_iter().try_for_each(|client| client.join().unwrap_or_else(|_| anyhow::bail!("a client died")))
    })?;
    let usage = server.finish()?;
    Ok((started.elapsed(), usage))
}

fn fetch(port: u16, expected: &[u8]) -> Result<()> {
    const PIECE: usize = 64 * 1024;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let (mut buffer, mut rest) = (vec![0; PIECE], expected);
    loop {
        let bytes = stream.read(&mut buffer)?;
        if bytes == 0 {
            break;
        }
        rest = rest.strip_prefix(&buffer[..bytes]).context("a client got something else")?;
    }
    ensure!(rest.is_empty(), "a client did not get everything");
    stream.write_all(THANK_YOU)?;
    Ok(())
}

fn allow_many_connections() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
