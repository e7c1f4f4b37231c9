//! Which addresses may be dialled. Asked at the moment of dialling, with the very address that is
//! dialled: whatever a name resolved to before does not count.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    /// Nobody may: cloud metadata, link-local, multicast, unspecified and reserved addresses.
    #[error("{0} is an address that no provider may have")]
    Never(IpAddr),
    /// Only providers that the config marks so may.
    #[error(
        "{0} is in a private network; set `allowPrivateNetwork` (or `\"authMode\": \"local\"`) if the \
         provider is meant to be there"
    )]
    Private(IpAddr),
}

/// Whether an address may be dialled; `private` if those of private networks may.
pub(super) fn check(address: IpAddr, private: bool) -> Result<(), Denied> {
    let class = match address {
        IpAddr::V4(ip) => of_v4(ip),
        IpAddr::V6(ip) => of_v6(ip),
    };
    match class {
        Class::Public => Ok(()),
        Class::Private if private => Ok(()),
        Class::Private => Err(Denied::Private(address)),
        Class::Never => Err(Denied::Never(address)),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Public,
    Private,
    Never,
}

/// Alibaba's metadata service.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
/// Azure's.
const METADATA_AZURE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Amazon's, Google's, Oracle's.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

fn of_v4(ip: Ipv4Addr) -> Class {
    let [a, b, ..] = ip.octets();
    if ip == METADATA_V4
        || ip == METADATA_AZURE
        || ip.is_link_local()
        || ip.is_multicast()
        || a == 0
        || a >= 240
    {
        return Class::Never;
    }
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (b == 18 || b == 19);
    if ip.is_loopback() || ip.is_private() || shared || benchmark {
        return Class::Private;
    }
    Class::Public
}

fn of_v6(ip: Ipv6Addr) -> Class {
    if let Some(inner) = carried(ip) {
        return of_v4(inner);
    }
    if ip.is_loopback() {
        return Class::Private;
    }
    if METADATA_V6.contains(&ip)
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unicast_link_local()
    {
        return Class::Never;
    }
    match ip.segments() {
        // Teredo, and NAT64 with a prefix of somebody's own: who knows where they lead.
        [0x2001, 0, ..] | [0x64, 0xff9b, 1, ..] => Class::Never,
        // Site-local, which nobody should have any more.
        [0xfec0..=0xfeff, ..] => Class::Private,
        _ if ip.is_unique_local() => Class::Private,
        _ => Class::Public,
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped, compatible, translated, 6to4, NAT64.
fn carried(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let join = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(join(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(join(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;

    fn allowed(text: &str, private: bool) -> bool {
        check(text.parse().unwrap(), private).is_ok()
    }

    #[test]
    fn t21_metadata_never_private_only_where_marked() {
        for never in [
            "169.254.169.254",
            "100.100.100.200",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fe80::1",
            "ff02::1",
            "::",
            "::ffff:169.254.169.254",
            "2002:a9fe:a9fe::1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "::ffff:0:169.254.169.254",
            "168.63.129.16",
            "2001::1",
        ] {
            assert!(!allowed(never, true), "{never}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "::1",
            "fd12::1",
            "::ffff:127.0.0.1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "::127.0.0.1",
        ] {
            assert!(!allowed(private, false) && allowed(private, true), "{private}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::101:101"] {
            assert!(allowed(public, false), "{public}");
        }
    }

    /// The same as a table, which is how the standards have it.
    fn model(ip: IpAddr) -> (bool, bool) {
        const NEVER: [&str; 14] = [
            "168.63.129.16/32",
            "2001::/32",
            "64:ff9b:1::/48",
            "0.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "100.100.100.200/32",
            "fe80::/10",
            "ff00::/8",
            "fd00:ec2::254/128",
            "fd20:ce::254/128",
            "fd00:c1::a9fe:a9fe/128",
            "::/128",
        ];
        const PRIVATE: [&str; 9] = [
            "fec0::/10",
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "198.18.0.0/15",
            "fc00::/7",
            "::1/128",
        ];
        let within =
            |nets: &[&str]| nets.iter().any(|net| net.parse::<IpNet>().unwrap().contains(&ip));
        if within(&NEVER) { (false, false) } else { (!within(&PRIVATE), true) }
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        // Near the edges of the ranges, where mistakes are.
        let edge = prop::sample::select(vec![
            0x0000_0000_u32,
            0x00ff_ffff,
            0x0a00_0000,
            0x0aff_ffff,
            0x6440_0000,
            0x647f_ffff,
            0x6464_64c8,
            0x7f00_0000,
            0x7fff_ffff,
            0xa9fe_0000,
            0xa9fe_ffff,
            0xac10_0000,
            0xac1f_ffff,
            0xc0a8_0000,
            0xc0a8_ffff,
            0xc612_0000,
            0xc613_ffff,
            0xe000_0000,
            0xf000_0000,
        ]);
        let v4 = prop_oneof![
            any::<u32>(),
            (edge, -2_i64..3).prop_map(|(edge, step)| (i64::from(edge) + step) as u32),
        ];
        let v6 = prop_oneof![
            any::<u128>(),
            any::<u64>().prop_map(|low| (0xfc00_u128 << 112) | u128::from(low)),
            any::<u64>().prop_map(|low| (0xfe80_u128 << 112) | u128::from(low)),
            any::<u64>().prop_map(|low| (0xfec0_u128 << 112) | u128::from(low)),
            any::<u64>().prop_map(|low| (0x2001_0000_u128 << 96) | u128::from(low)),
            any::<u64>().prop_map(|low| (0x64_ff9b_0001_u128 << 80) | u128::from(low)),
            Just(1_u128),
            Just(0_u128),
        ];
        prop_oneof![
            v4.prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits))),
            v6.prop_map(|bits| IpAddr::from(Ipv6Addr::from(bits))),
        ]
    }

    proptest! {
        #[test]
        fn p12_the_dial_policy_agrees_with_the_table(ip in address()) {
            let plain = match ip {
                IpAddr::V6(v6) => carried(v6).map_or(ip, IpAddr::V4),
                v4 => v4,
            };
            let (public, private) = model(plain);
            prop_assert_eq!(check(ip, false).is_ok(), public, "{}", ip);
            prop_assert_eq!(check(ip, true).is_ok(), private, "{}", ip);
        }

        #[test]
        fn p12_no_disguise_helps(bits in any::<u32>(), private in any::<bool>()) {
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let plain = check(v4.into(), private).is_ok();
            for disguised in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            ] {
                prop_assert_eq!(check(disguised.into(), private).is_ok(), plain, "{}", disguised);
            }
        }
    }
}
