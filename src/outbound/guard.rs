//! Which targets are allowed: the one place that judges a URL and an address.

use ipnet::IpNet;

/// The ranges that an operator opened by name.
#[derive(Clone, Debug, Default)]
pub struct TargetPolicy {}

/// Why a target is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TargetRefused(pub String);

impl TargetPolicy {
    /// Public addresses, and these.
    pub fn new(_allowed: Vec<IpNet>) -> Self {
        todo!()
    }

    /// Checks a URL as it is given by a user: absolute, `http` or `https`, no credentials, and a host that is not
    /// refused already by its spelling. Returns it as it is stored.
    pub fn check_url(&self, _url: &str) -> Result<String, TargetRefused> {
        todo!()
    }
}
