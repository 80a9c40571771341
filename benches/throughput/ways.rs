//! The ways of moving a file from one place on this machine to another: the pair, its peers, and tools that copy.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::common::{c_program, installed};
use crate::process::{Invocation, Usage, start_on_free_port};

/// One way, as a table names it.
pub struct Way {
    pub name: &'static str,
    /// So slow that it gets a smaller file, and is counted by the byte.
    pub slow: bool,
    moves: Moves,
    then_sync: bool,
}

type FromTo = Box<dyn Fn(&Path, &Path) -> Invocation>;
type Announcing = Box<dyn Fn(&Path) -> Invocation>;
type OnPort = Box<dyn Fn(u16, &Path) -> Invocation>;

enum Moves {
    /// One process.
    Copy(FromTo),
    /// A sender that says on which port it listens, and a receiver.
    Announced(Announcing, OnPort),
    /// A sender that is told its port, and a receiver.
    Told(OnPort, OnPort),
}

/// What one transfer cost.
#[derive(Clone, Copy)]
pub struct Cost {
    /// From the start of the first process to the end of the last.
    pub wall: Duration,
    pub sender: Usage,
    pub receiver: Usage,
}

/// Where `strace` counts the system calls of either side.
pub struct Counting {
    pub strace: PathBuf,
    pub sender: PathBuf,
    pub receiver: PathBuf,
}

impl Way {
    fn new(name: &'static str, moves: Moves) -> Self {
        Self { name, slow: false, moves, then_sync: false }
    }

    /// Moves the file, which includes whatever follows before it counts as stored.
    pub fn transfer(&self, from: &Path, to: &Path, counting: Option<&Counting>) -> Result<Cost> {
        let counted = |invocation: Invocation, counts: fn(&Counting) -> &Path| match counting {
            Some(counting) => invocation.traced(&counting.strace, counts(counting)),
            None => invocation,
        };
        let as_sender = |invocation| counted(invocation, |counting| &counting.sender);
        let as_receiver = |invocation| counted(invocation, |counting| &counting.receiver);

        let started = Instant::now();
        let (sender, receiver) = match &self.moves {
            Moves::Copy(copy) => (as_sender(copy(from, to)).run()?, Usage::default()),
            Moves::Announced(send, receive) => {
                let mut sender = as_sender(send(from)).start()?;
                let port = sender.announced_port()?;
                let receiver = as_receiver(receive(port, to)).run()?;
                (sender.finish()?, receiver)
            }
            Moves::Told(send, receive) => {
                let (sender, port) = start_on_free_port(|port| as_sender(send(port, from)))?;
                let receiver = as_receiver(receive(port, to)).run()?;
                (sender.finish()?, receiver)
            }
        };
        if self.then_sync {
            Invocation::new("sync").with([to]).run()?;
        }
        Ok(Cost { wall: started.elapsed(), sender, receiver })
    }
}

/// The pair with these options.
pub fn pair(name: &'static str, server: &'static [&'static str], client: &'static [&'static str]) -> Way {
    let send = move |from: &Path| {
        let program = Invocation::new(env!("CARGO_BIN_EXE_file-server"));
        program.with(["--bind", "127.0.0.1", "0"]).with(server).with(["--file"]).with([from])
    };
    let receive = move |port: u16, to: &Path| {
        let program = Invocation::new(env!("CARGO_BIN_EXE_file-client"));
        program.with(["127.0.0.1", &port.to_string()]).with(client).with(["--output"]).with([to])
    };
    Way::new(name, Moves::Announced(Box::new(send), Box::new(receive)))
}

/// The pair as it is without options.
pub fn defaults() -> Way {
    pair("the pair", &[], &[])
}

pub fn zero_copy() -> Way {
    pair("the pair --zero-copy", &["--zero-copy"], &[])
}

pub fn cp() -> Option<Way> {
    // Holes of the source are bytes like all others.
    let copy = |from: &Path, to: &Path| Invocation::new("cp").with(["--sparse=never"]).with([from, to]);
    installed("cp").map(|_| Way::new("cp", Moves::Copy(Box::new(copy))))
}

pub fn dd() -> Option<Way> {
    let copy = |from: &Path, to: &Path| {
        let ends = [format!("if={}", from.display()), format!("of={}", to.display())];
        Invocation::new("dd").with(ends).with(["bs=1M", "conv=fsync"])
    };
    installed("dd").map(|_| Way::new("dd bs=1M conv=fsync", Moves::Copy(Box::new(copy))))
}

pub fn nc() -> Option<Way> {
    let program = installed("nc.openbsd")?;
    let sender = Invocation::new(&program).with(["-N", "-l", "127.0.0.1"]);
    let receiver = Invocation::new(&program).with(["-d", "127.0.0.1"]);
    let send = move |port: u16, from: &Path| sender.clone().with([port.to_string()]).reading(from);
    let receive = move |port: u16, to: &Path| receiver.clone().with([port.to_string()]).writing(to);
    Some(Way::new("nc", Moves::Told(Box::new(send), Box::new(receive))))
}

pub fn nc_then_sync() -> Option<Way> {
    installed("sync")?;
    nc().map(|nc| Way { name: "nc, then sync FILE", then_sync: true, ..nc })
}

pub fn ncat() -> Option<Way> {
    let program = installed("ncat")?;
    let sender = Invocation::new(&program).with(["--send-only", "-l", "127.0.0.1"]);
    let receiver = Invocation::new(&program).with(["--recv-only", "127.0.0.1"]);
    let send = move |port: u16, from: &Path| sender.clone().with([port.to_string()]).reading(from);
    let receive = move |port: u16, to: &Path| receiver.clone().with([port.to_string()]).writing(to);
    Some(Way::new("ncat", Moves::Told(Box::new(send), Box::new(receive))))
}

pub fn socat() -> Option<Way> {
    socat_with("socat", &["-u"])
}

pub fn socat_with_large_buffers() -> Option<Way> {
    socat_with("socat -b262144", &["-u", "-b262144"])
}

fn socat_with(name: &'static str, options: &[&str]) -> Option<Way> {
    let program = Invocation::new(installed("socat")?).with(options);
    let sender = program.clone();
    let send = move |port: u16, from: &Path| {
        let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr");
        sender.clone().with([format!("OPEN:{},rdonly", from.display()), listen])
    };
    let receive = move |port: u16, to: &Path| {
        let create = format!("CREATE:{}", to.display());
        program.clone().with([format!("TCP:127.0.0.1:{port}"), create])
    };
    Some(Way::new(name, Moves::Told(Box::new(send), Box::new(receive))))
}

/// The textbook example: one system call for every 30 bytes.
pub fn textbook() -> Option<Way> {
    let (server, client) = c_program("textbook-server.c").zip(c_program("textbook-client.c"))?;
    let send = move |from: &Path| Invocation::new(&server).with(["0"]).with([from]);
    let receive =
        move |port: u16, to: &Path| Invocation::new(&client).with(["127.0.0.1", &port.to_string()]).with([to]);
    let way = Way::new("the textbook pair in C", Moves::Announced(Box::new(send), Box::new(receive)));
    Some(Way { slow: true, ..way })
}
