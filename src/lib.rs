//! Hands one file to another machine over TCP, after the textbook example of a half-close.
//!
//! One transfer, from top to bottom:
//!
//! 1. `file-server` opens the file (`file::source`), listens (`net::listen`) and prints what to type on the other machine
//!    (`invitation`). `file-client` checks the destination (`file::destination`) and connects (`net::dial`). With a key,
//!    both show in a handshake that they have it (`net::tls`, `admission`).
//! 2. The server sends the file's bytes in chunks and nothing else (`transfer`), makes sure that the file did not change
//!    meanwhile, and half-closes the connection (`sender`).
//! 3. The client reads to EOF (`transfer`), checks the size and digest that it was told to expect, syncs the file to
//!    disk, gives it its name, and only then replies "Thank you" on the half that is still open ([`client`],
//!    [`protocol`]).
//! 4. The server reads the reply and knows the outcome ([`server`]). FIN means whole and RST means failed, in both
//!    directions: a `net::connection::Connection` resets unless it was finished, however the process ends.
//!
//! Around it: arguments ([`cli`]), what the user sees (`ui`), and signals (`signals`).
//!
//! The half-close is one function per side: `receiver::run` and `sender::run`.

pub mod cli;
pub mod client;
pub mod endpoint;
pub mod protocol;
pub mod server;

mod admission;
mod blocking;
mod buffer;
mod command;
mod file;
mod invitation;
mod key;
mod net;
mod receiver;
mod resume;
mod sender;
mod signals;
mod tally;
mod text;
mod transfer;
mod ui;
