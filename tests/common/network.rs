//! Ports and connections as the kernel sees them.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port that nobody listens on and that the kernel gives to nobody else while this lives. Who asks for it by number
/// and sets `SO_REUSEADDR`, as our programs and all their peers do, can listen on it (socket(7)).
pub struct HeldPort {
    pub number: u16,
    _socket: Socket,
}

impl HeldPort {
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let number = socket.local_addr().unwrap().as_socket().unwrap().port();
        Self { number, _socket: socket }
    }
}

/// Waits until the kernel's table of connections over IPv4 has an entry such as this.
#[cfg(target_os = "linux")]
pub fn wait_for_connection(what: &str, is_it: impl Fn(&procfs::net::TcpNetEntry) -> bool) {
    let started = std::time::Instant::now();
    while !procfs::net::tcp().unwrap().iter().any(&is_it) {
        assert!(started.elapsed() < super::DEADLINE, "there is no connection {what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
