//! Which addresses are public: the ranges that are never a target unless an operator opens them by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Not the public internet (the special-purpose registries of IANA, and one cloud's host services).
const REFUSED_V4: [Ipv4Net; 19] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    // Link-local, where clouds keep their metadata and credentials.
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 31, 196, 0], 24),
    v4([192, 52, 193, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([192, 175, 48, 0], 24),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
    // Azure's host services answer here, inside an otherwise public range.
    v4([168, 63, 129, 16], 32),
];

/// The only part of IPv6 that is given out for the public internet.
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0], 3);

/// Inside of it, and still not the public internet. 6to4 (`2002::/16`) and Teredo (in `2001::/23`) carry an IPv4
/// address inside; both are dead, so they are refused whole.
const REFUSED_V6: [Ipv6Net; 6] = [
    v6([0x2001, 0, 0], 23),
    v6([0x2001, 0xdb8, 0], 32),
    v6([0x2002, 0, 0], 16),
    v6([0x2620, 0x4f, 0x8000], 48),
    v6([0x3ffe, 0, 0], 16),
    v6([0x3fff, 0, 0], 20),
];

/// The well-known prefix of NAT64 (RFC 6052): what follows is the IPv4 address that the packet will reach.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0], 96);

const fn v4(address: [u8; 4], length: u8) -> Ipv4Net {
    let [a, b, c, d] = address;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(start: [u16; 3], length: u8) -> Ipv6Net {
    let [a, b, c] = start;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length)
}

/// The address that a packet to `address` reaches in the end: IPv4 mapped into IPv6, or behind NAT64, is IPv4.
pub(super) fn reached(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if NAT64.contains(&v6) => IpAddr::V4(last_four_bytes(v6)),
        other => other.to_canonical(),
    }
}

/// The refused range that the address (as [`reached`]) is in, if it is in one.
pub(super) fn refused(address: IpAddr) -> Option<IpNet> {
    match address {
        IpAddr::V4(v4) => refused_v4(v4).map(IpNet::V4),
        IpAddr::V6(v6) => refused_v6(v6),
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<Ipv4Net> {
    REFUSED_V4.into_iter().find(|range| range.contains(&address))
}

fn refused_v6(address: Ipv6Addr) -> Option<IpNet> {
    if !GLOBAL_UNICAST.contains(&address) {
        return Some(IpNet::from(IpAddr::V6(address)));
    }
    let special = REFUSED_V6.into_iter().find(|range| range.contains(&address)).map(IpNet::V6);
    // Who opens it opens this address: the IPv4 range would say nothing of what it is reached by.
    special.or_else(|| isatap(address).and_then(refused_v4).map(|_| IpNet::from(IpAddr::V6(address))))
}

/// The IPv4 address inside an ISATAP interface identifier (RFC 5214), which can follow any prefix.
fn isatap(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., u, l, _, _] = address.segments();
    ((u & !0x0200) == 0 && l == 0x5efe).then(|| last_four_bytes(address))
}

fn last_four_bytes(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_public(address: &str) -> bool {
        refused(reached(address.parse().unwrap())).is_none()
    }

    /// Range by range: last address before, first, last, first address after. A neighbour that is in another range, or
    /// does not exist, is left out.
    const EDGES_V4: [[&str; 4]; 19] = [
        ["", "0.0.0.0", "0.255.255.255", "1.0.0.0"],
        ["9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"],
        ["100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"],
        ["126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"],
        ["169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"],
        ["172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"],
        ["191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"],
        ["192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"],
        ["192.31.195.255", "192.31.196.0", "192.31.196.255", "192.31.197.0"],
        ["192.52.192.255", "192.52.193.0", "192.52.193.255", "192.52.194.0"],
        ["192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"],
        ["192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"],
        ["192.175.47.255", "192.175.48.0", "192.175.48.255", "192.175.49.0"],
        ["198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"],
        ["198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"],
        ["203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"],
        ["223.255.255.255", "224.0.0.0", "239.255.255.255", ""],
        ["", "240.0.0.0", "255.255.255.255", ""],
        ["168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17"],
    ];

    const EDGES_V6: [[&str; 4]; 7] = [
        ["", "::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"],
        ["2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"],
        ["2001:db7:ffff::1", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"],
        ["2001:ffff::1", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"],
        ["2620:4f:7fff:ffff::1", "2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", "2620:4f:8001::"],
        ["3ffd:ffff::1", "3ffe::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""],
        ["", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"],
    ];

    #[test]
    fn each_range_is_refused_from_its_first_to_its_last_address_and_no_further() {
        for [before, first, last, after] in EDGES_V4.into_iter().chain(EDGES_V6) {
            assert!(!is_public(first) && !is_public(last), "{first} to {last}");
            for neighbour in [before, after].into_iter().filter(|address| !address.is_empty()) {
                assert!(is_public(neighbour), "{neighbour} is next to {first} to {last}");
            }
        }
    }

    #[test]
    fn beyond_global_unicast_nothing_is_public() {
        for address in ["4000::", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1"] {
            assert!(!is_public(address), "{address}");
        }
        assert!(is_public("3fff:ffff::1") && is_public("2606:4700::1111"));
    }

    #[test]
    fn embedded_ipv4_is_judged_as_ipv4() {
        for prefix in ["::ffff:", "64:ff9b::", "2600::5efe:", "2600::200:5efe:"] {
            assert!(!is_public(&format!("{prefix}127.0.0.1")), "{prefix}");
            assert!(!is_public(&format!("{prefix}169.254.169.254")), "{prefix}");
            assert!(is_public(&format!("{prefix}9.9.9.9")), "{prefix}");
        }
    }

    #[test]
    fn what_is_refused_for_an_isatap_address_is_what_would_open_it() {
        let address: IpAddr = "2600::5efe:10.0.0.1".parse().unwrap();
        assert_eq!(refused(reached(address)), Some(IpNet::from(address)));
    }

    #[test]
    fn forms_that_nobody_routes_are_refused_whatever_they_embed() {
        // IPv4-compatible, IPv4-translated, local NAT64, 6to4, Teredo.
        for address in ["::9.9.9.9", "::ffff:0:9.9.9.9", "64:ff9b:1::9.9.9.9", "2002:909:909::1", "2001::909:909"] {
            assert!(!is_public(address), "{address}");
        }
        assert!(!is_public("::1") && !is_public("::"));
    }
}
