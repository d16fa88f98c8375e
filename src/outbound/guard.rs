//! Which targets are allowed: the one place that judges a URL and an address. The lists are in `ranges`, the spelling of
//! URLs in `target`; names are judged by what they resolve to, at every connect, in `resolver`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::ranges::{reached, refused};
use super::target::{Endpoint, is_local_name};

/// The ranges that an operator opened by name.
#[derive(Clone, Debug, Default)]
pub struct TargetPolicy {
    allowed: Vec<IpNet>,
}

/// Why a target is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TargetRefused(pub String);

impl TargetPolicy {
    /// Public addresses, and these.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Checks a URL as it is given by a user: absolute, `http` or `https`, no credentials, and a host that is not
    /// refused already by its spelling. Returns it as it is stored.
    ///
    /// # Errors
    /// Says what was found, what is expected and, for a private target, how an operator allows it.
    pub fn check_url(&self, url: &str) -> Result<String, TargetRefused> {
        let endpoint = Endpoint::parse(url)?;
        self.check_literal(&endpoint)?;
        if is_local_name(endpoint.host()) && self.loopback().is_empty() {
            return Err(local_name_refused(endpoint.host()));
        }
        Ok(url.to_owned())
    }

    /// Refuses an address written in the URL: it never passes the resolver, so it is judged again at every attempt.
    pub(super) fn check_literal(&self, endpoint: &Endpoint) -> Result<(), TargetRefused> {
        match endpoint.literal {
            Some(address) => self.check_address(address),
            None => Ok(()),
        }
    }

    /// Refuses an answer of the resolver that holds any address that is not allowed. Picking the good ones would let
    /// a name pass that also points inside. The error does not tell what the name resolves to.
    pub(super) fn check_answer(&self, name: &str, addresses: &[IpAddr]) -> Result<(), TargetRefused> {
        if addresses.iter().all(|address| self.allows(*address)) {
            return Ok(());
        }
        Err(TargetRefused(format!(
            "the name {name} resolves to an address that is not on the public internet; an operator allows ranges by \
             name with HOOKPOST_ALLOW_TARGETS"
        )))
    }

    /// What the names of this machine resolve to: the loopback addresses that are allowed.
    pub(super) fn loopback(&self) -> Vec<IpAddr> {
        let all = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        all.into_iter().filter(|address| self.allows(*address)).collect()
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.check_address(address).is_ok()
    }

    fn check_address(&self, address: IpAddr) -> Result<(), TargetRefused> {
        let reached = reached(address);
        match refused(reached) {
            Some(range) if !self.allowed.iter().any(|allowed| allowed.contains(&reached)) => {
                Err(address_refused(address, range))
            }
            _ => Ok(()),
        }
    }
}

fn address_refused(address: IpAddr, range: IpNet) -> TargetRefused {
    let or_dev = if reached(address).is_loopback() { ", or starts with --dev, which allows loopback" } else { "" };
    TargetRefused(format!(
        "the address {address} is not on the public internet, where targets are expected; an operator allows it with \
         HOOKPOST_ALLOW_TARGETS={range}{or_dev}"
    ))
}

pub(super) fn local_name_refused(name: &str) -> TargetRefused {
    TargetRefused(format!(
        "the name {name} means the machine that Hookpost runs on, and targets are expected on the public internet; an \
         operator allows it with HOOKPOST_ALLOW_TARGETS=127.0.0.0/8, or starts with --dev, which allows loopback"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public_only() -> TargetPolicy {
        TargetPolicy::default()
    }

    fn with(ranges: &[&str]) -> TargetPolicy {
        TargetPolicy::new(ranges.iter().map(|range| range.parse().unwrap()).collect())
    }

    #[test]
    fn a_public_url_is_stored_as_it_was_given() {
        for url in [
            "https://example.com/hooks?token=a%20b",
            "http://example.com",
            "HTTPS://Example.COM:8443/@user/x",
            "https://xn--bcher-kva.example/",
            "http://9.9.9.9:8080/a",
            "http://[2606:4700::1111]/",
            "http://under_score.example/",
        ] {
            assert_eq!(public_only().check_url(url).as_deref(), Ok(url));
        }
    }

    #[test]
    fn private_addresses_are_refused_with_the_way_to_allow_them() {
        let TargetRefused(text) = public_only().check_url("http://10.1.2.3/").unwrap_err();
        assert!(text.contains("10.1.2.3") && text.contains("HOOKPOST_ALLOW_TARGETS=10.0.0.0/8"), "{text}");
        assert!(!text.contains("--dev"), "--dev does not open private networks: {text}");
        let TargetRefused(text) = public_only().check_url("http://127.0.0.1:9000/").unwrap_err();
        assert!(text.contains("HOOKPOST_ALLOW_TARGETS=127.0.0.0/8") && text.contains("--dev"), "{text}");
        let TargetRefused(text) = public_only().check_url("http://[fd00::1]/").unwrap_err();
        assert!(text.contains("HOOKPOST_ALLOW_TARGETS=fd00::1/128"), "{text}");
    }

    #[test]
    fn an_opened_range_allows_what_is_in_it_and_nothing_else() {
        let policy = with(&["10.1.0.0/16", "fd00::/8"]);
        for url in ["http://10.1.2.3/", "http://[::ffff:10.1.2.3]/", "http://[64:ff9b::10.1.2.3]/", "http://[fd00::1]/"]
        {
            assert!(policy.check_url(url).is_ok(), "{url}");
        }
        for url in ["http://10.2.0.1/", "http://127.0.0.1/", "http://[2002:a01:203::1]/", "http://[fe80::1]/"] {
            assert!(policy.check_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn names_of_this_machine_are_refused_unless_loopback_is_allowed() {
        for url in ["http://localhost:9000/", "http://LOCALHOST/", "http://a.localhost/"] {
            assert!(public_only().check_url(url).unwrap_err().0.contains("--dev"), "{url}");
            assert!(with(&["127.0.0.0/8"]).check_url(url).is_ok(), "{url}");
            assert!(with(&["::1/128"]).check_url(url).is_ok(), "{url}");
        }
        assert!(public_only().check_url("http://localhost.example.com/").is_ok());
    }

    #[test]
    fn a_mixed_answer_is_refused_whole_and_not_told() {
        let answer = ["9.9.9.9".parse().unwrap(), "10.0.0.7".parse().unwrap()];
        let TargetRefused(text) = public_only().check_answer("example.com", &answer).unwrap_err();
        assert!(!text.contains("10.0.0.7") && !text.contains("9.9.9.9"), "{text}");
        assert_eq!(public_only().check_answer("example.com", &answer[..1]), Ok(()));
    }
}
