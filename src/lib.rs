//! Hands one file to another machine over plain TCP, after the textbook example of a half-close.
//!
//! The whole transfer, from arguments to outcome:
//!
//! 1. `file-server` opens the file ([`source`]) and listens ([`socket`]); `file-client` prepares the place where the
//!    file will stand ([`destination`]) and connects.
//! 2. The server sends the file's bytes in chunks and nothing else, makes sure that the file did not change meanwhile,
//!    and closes its half of the connection ([`send`]).
//! 3. The client reads to that end, checks what it was told to expect, brings the bytes to the disk, gives the file its
//!    name, and only then says "Thank you" on the half that is still open ([`receive`], [`protocol`]).
//! 4. The server reads the reply and knows ([`server`]). FIN means whole and RST means failed, in both directions: until
//!    a side knows that all went well, its socket is set so that every other way to end, a kill included, sends RST.
//!
//! Around it: the arguments ([`cli`]), what a person sees ([`console`], [`report`]), how long to wait for a peer that
//! does not move ([`patience`]), and signals ([`interrupt`]).

pub mod cli;
pub mod console;
pub mod destination;
pub mod interrupt;
pub mod patience;
pub mod protocol;
pub mod receive;
pub mod report;
pub mod send;
pub mod server;
pub mod socket;
pub mod source;

mod announce;
mod platform;
mod progress;
mod queue;
mod terminal;
mod unnamed;
mod write_back;
mod zero_copy;
