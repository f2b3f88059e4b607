//! Under which addresses others may reach this machine.
//!
//! `sysinfo` knows the interfaces that sysfs shows: without `/sys` there are none.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sysinfo::{InterfaceOperationalState, Networks};

/// Of all interfaces that are not down, IPv4 first, ascending; neither loopback nor link-local.
pub(super) fn addresses() -> Vec<String> {
    let Ok(networks) = Networks::new_with_refreshed_list() else { return Vec::new() };
    // Sorted, because `sysinfo` has them in no order.
    let addresses: BTreeSet<IpAddr> = networks
        .values()
        .filter(|interface| !is_down(interface.operational_state()))
        .flat_map(|interface| interface.ip_networks())
        .map(|network| network.addr)
        .filter(|ip| reachable(*ip))
        .collect();
    addresses.iter().map(IpAddr::to_string).collect()
}

/// Many that work, tunnels among them, are in the state `Unknown`.
fn is_down(state: InterfaceOperationalState) -> bool {
    matches!(
        state,
        InterfaceOperationalState::Down
            | InterfaceOperationalState::NotPresent
            | InterfaceOperationalState::LowerLayerDown
    )
}

fn reachable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !link_local
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn only_addresses_that_others_can_use() {
        for good in ["10.1.2.3", "192.168.0.1", "2001:db8::1", "fd00::1"] {
            assert!(reachable(good.parse().unwrap()), "{good}");
        }
        for bad in ["127.0.0.2", "169.254.1.1", "::1", "fe80::1", "0.0.0.0", "::"] {
            assert!(!reachable(bad.parse().unwrap()), "{bad}");
        }
    }

    #[test]
    fn the_address_that_the_kernel_would_send_from_is_among_them() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Nothing is sent: this only asks the routing table. The target is reserved for documentation.
        if socket.connect("192.0.2.1:9").is_err() {
            eprintln!("SKIPPED: no route to anywhere");
            return;
        }
        let source = socket.local_addr().unwrap().ip();
        if !reachable(source) {
            eprintln!("SKIPPED: only the machine itself is routed to");
            return;
        }
        let addresses = addresses();
        assert!(addresses.contains(&source.to_string()), "{source} is not in {addresses:?}");
    }
}
