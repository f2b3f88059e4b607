//! Which of a plan's ports somebody listens on already.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use trainyard_core::unit::Port;

/// The ports that cannot be listened on now, on any interface.
pub(super) fn taken(ports: &[Port]) -> Vec<Port> {
    ports.iter().copied().filter(|port| is_taken(*port)).collect()
}

/// Listens for a moment. `TcpListener` sets SO_REUSEADDR: a port whose connections have just ended is free.
fn is_taken(port: Port) -> bool {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port.0)) {
        Ok(listener) => {
            // It took both families, unless this host keeps them apart.
            drop(listener);
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.0)).is_err()
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => true,
        // No IPv6 here.
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.0)).is_err(),
    }
}
