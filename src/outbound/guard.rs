//! Which targets are allowed: the one place that judges a URL and an address. The lists are in `ranges`, the spelling of
//! URLs in `target`; names are judged by what they resolve to, at every connect, in `resolver`.
//!
//! The same rules at creation and at every attempt: the settings may have changed in between, and what is stored does not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::ranges::{reached, refused};
use super::target::{Endpoint, is_local_name};

/// What an operator decided about targets.
#[derive(Clone, Debug, Default)]
pub struct TargetPolicy {
    /// Ranges that are opened by name, private ones as a rule.
    allowed: Vec<IpNet>,
    /// Whether targets outside of those ranges must be `https`.
    require_https: bool,
    /// Ports that nothing is sent to, wherever they are.
    refused_ports: Vec<u16>,
}

/// Why a target is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TargetRefused(pub String);

impl TargetPolicy {
    /// Public addresses, and these; `http` or `https`; every port.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed, ..Self::default() }
    }

    /// The same, with `https` demanded of what is not in an opened range.
    #[must_use]
    pub fn requiring_https(self, require_https: bool) -> Self {
        Self { require_https, ..self }
    }

    /// The same without these ports.
    #[must_use]
    pub fn refusing_ports(self, refused_ports: Vec<u16>) -> Self {
        Self { refused_ports, ..self }
    }

    /// Checks a URL as it is given by a user: absolute, `http` or `https`, no credentials, and a host and a port that
    /// are not refused already as they are written. Returns it as it is stored.
    ///
    /// # Errors
    /// Says what was found, what is expected and, for a private target, how an operator allows it.
    pub fn check_url(&self, url: &str) -> Result<String, TargetRefused> {
        self.check_endpoint(&Endpoint::parse(url)?)?;
        Ok(url.to_owned())
    }

    /// All that can be judged before a name is looked up. An address in the URL never passes the resolver, so this is
    /// where it is judged.
    pub(super) fn check_endpoint(&self, endpoint: &Endpoint) -> Result<(), TargetRefused> {
        let host = endpoint.host();
        if self.refused_ports.contains(&endpoint.port) {
            return Err(port_refused(endpoint.port));
        }
        match endpoint.literal {
            Some(address) => self.check_address(address)?,
            None if is_local_name(host) && self.loopback().is_empty() => return Err(local_name_refused(host)),
            None => {}
        }
        self.check_scheme(
            endpoint,
            match endpoint.literal {
                Some(address) => self.is_opened(address),
                // A name may lead into an opened range: then its answers decide.
                None => !self.allowed.is_empty(),
            },
        )
    }

    /// Refuses an answer of the resolver that holds any address that is not allowed. Picking the good ones would let
    /// a name pass that also points inside. The error does not tell what the name resolves to.
    pub(super) fn check_answer(&self, endpoint: &Endpoint, addresses: &[IpAddr]) -> Result<(), TargetRefused> {
        if !addresses.iter().all(|address| self.check_address(*address).is_ok()) {
            return Err(TargetRefused(format!(
                "the name {} resolves to an address that is not on the public internet; an operator allows ranges by name \
                 with HOOKPOST_ALLOW_TARGETS",
                endpoint.host()
            )));
        }
        self.check_scheme(endpoint, addresses.iter().all(|address| self.is_opened(*address)))
    }

    fn check_scheme(&self, endpoint: &Endpoint, in_opened_range: bool) -> Result<(), TargetRefused> {
        let accepted = endpoint.tls || in_opened_range || !self.require_https;
        if accepted { Ok(()) } else { Err(plain_refused(endpoint.host())) }
    }

    /// What the names of this machine resolve to: the loopback addresses that are allowed.
    pub(super) fn loopback(&self) -> Vec<IpAddr> {
        let all = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        all.into_iter().filter(|address| self.check_address(*address).is_ok()).collect()
    }

    fn is_opened(&self, address: IpAddr) -> bool {
        let reached = reached(address);
        self.allowed.iter().any(|range| range.contains(&reached))
    }

    fn check_address(&self, address: IpAddr) -> Result<(), TargetRefused> {
        match refused(reached(address)) {
            Some(range) if !self.is_opened(address) => Err(address_refused(address, range)),
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

fn port_refused(port: u16) -> TargetRefused {
    TargetRefused(format!(
        "port {port} is not a port for HTTP: what listens there may take the lines of a body for commands; use another \
         port, or an operator takes it from HOOKPOST_REFUSED_PORTS"
    ))
}

fn plain_refused(host: &str) -> TargetRefused {
    TargetRefused(format!(
        "plain http to {host} is refused, because HOOKPOST_REQUIRE_HTTPS is set; use https, or an operator opens the range \
         that the receiver is in with HOOKPOST_ALLOW_TARGETS"
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

    fn answered(policy: &TargetPolicy, url: &str, addresses: &[&str]) -> Result<(), TargetRefused> {
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        policy.check_answer(&Endpoint::parse(url).unwrap(), &addresses)
    }

    #[test]
    fn a_mixed_answer_is_refused_whole_and_not_told() {
        let TargetRefused(text) =
            answered(&public_only(), "http://example.com/", &["9.9.9.9", "10.0.0.7"]).unwrap_err();
        assert!(!text.contains("10.0.0.7") && !text.contains("9.9.9.9"), "{text}");
        assert_eq!(answered(&public_only(), "http://example.com/", &["9.9.9.9"]), Ok(()));
    }

    #[test]
    fn a_refused_port_is_refused_under_every_scheme_host_and_opened_range() {
        let policy = with(&["10.0.0.0/8"]).refusing_ports(vec![25, 80, 6379]);
        for url in [
            "http://example.com:25/",
            "https://example.com:6379/",
            "http://example.com/",
            "http://[2606:4700::1111]:25/",
            "http://10.1.2.3:6379/",
        ] {
            assert!(policy.check_url(url).unwrap_err().0.contains("HOOKPOST_REFUSED_PORTS"), "{url}");
        }
        assert!(policy.check_url("https://example.com/").is_ok() && policy.check_url("http://10.1.2.3:26/").is_ok());
    }

    #[test]
    fn with_https_required_plain_http_is_for_opened_ranges_alone() {
        let strict = public_only().requiring_https(true);
        for url in ["http://example.com/", "http://9.9.9.9/", "HTTP://example.com:8080/"] {
            assert!(strict.check_url(url).unwrap_err().0.contains("HOOKPOST_REQUIRE_HTTPS"), "{url}");
            assert!(public_only().check_url(url).is_ok(), "{url}");
        }
        assert!(strict.check_url("https://example.com/").is_ok());

        let opened = with(&["10.0.0.0/8"]).requiring_https(true);
        assert!(opened.check_url("http://10.1.2.3/").is_ok() && opened.check_url("http://9.9.9.9/").is_err());
        // Where the name leads is known when it is looked up.
        assert!(opened.check_url("http://inside.example/").is_ok());
        assert_eq!(answered(&opened, "http://inside.example/", &["10.1.2.3", "10.1.2.4"]), Ok(()));
        for addresses in [&["9.9.9.9"][..], &["10.1.2.3", "9.9.9.9"]] {
            let TargetRefused(text) = answered(&opened, "http://inside.example/", addresses).unwrap_err();
            assert!(text.contains("HOOKPOST_REQUIRE_HTTPS") && !text.contains("9.9.9.9"), "{text}");
            assert_eq!(answered(&opened, "https://inside.example/", addresses), Ok(()));
        }
    }
}
