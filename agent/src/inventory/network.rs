//! Under which addresses others may reach this machine.

use std::net::IpAddr;

/// Of all interfaces that are up, in the kernel's order; neither loopback nor link-local.
pub(super) fn addresses() -> Vec<String> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut addresses: Vec<String> = Vec::new();
    for interface in interfaces {
        let up = interface.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
        let Some(storage) = interface.address.filter(|_| up) else { continue };
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        let Some(ip) = v4.or(v6).filter(|ip| reachable(*ip)) else { continue };
        let text = ip.to_string();
        if !addresses.contains(&text) {
            addresses.push(text);
        }
    }
    addresses
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
}
