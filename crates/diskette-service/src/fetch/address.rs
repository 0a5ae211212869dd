//! Which addresses may be asked: public ones, unless the setting `allow_private_urls` says otherwise.
//!
//! The address that is judged is the one that is connected to: names are looked up once, here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::settings::Settings;

/// Looks names up, and refuses what is not public.
#[derive(Debug, Default)]
pub(super) struct Guarded {
    allow_private: bool,
    allowed: Vec<IpAddr>,
    inner: DefaultResolver,
}

impl Guarded {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            allow_private: settings.allow_private_urls,
            allowed: settings.allow_addresses.clone(),
            inner: DefaultResolver::default(),
        }
    }
}

/// Words by which a refusal is known again.
pub(super) const REFUSED: &str = "is not a public address";

impl Resolver for Guarded {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let is_refused = |address: &&SocketAddr| {
            !is_public(address.ip()) && !self.allowed.contains(&address.ip())
        };
        let mut refused = found.iter().filter(is_refused);
        match refused.next() {
            Some(address) if !self.allow_private => {
                let text = format!("{} {REFUSED}", address.ip());
                Err(ureq::Error::Io(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    text,
                )))
            }
            _ => Ok(found),
        }
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// By the "IANA IPv4 Special-Purpose Address Registry".
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !special
}

/// By the "IANA IPv6 Special-Purpose Address Registry". What carries an IPv4 address within is judged by that.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let last = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match parts {
        [0, 0, 0, 0, 0, 0xffff, high, low] => is_public_v4(last(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(last(high, low)),
        [0x2002, high, low, ..] => is_public_v4(last(high, low)),
        // Teredo, ORCHID, documentation and the like.
        [0x2001, second, ..] => second >= 0x200 && second != 0xdb8,
        [first, ..] => (0x2000..0x4000).contains(&first) && first != 0x3fff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_asked() {
        for refused in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "::7f00:1",
            "fec0::1",
            "3fff::1",
        ] {
            assert!(!is_public(refused.parse().unwrap()), "{refused}");
        }
        for public in [
            "1.1.1.1",
            "151.101.2.132",
            "2606:4700::1111",
            "2a04:4e42::644",
            "::ffff:1.1.1.1",
            "2001:4860::8888",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
