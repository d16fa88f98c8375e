//! A key as it is shown, by the API and by the command line: everything but what opens doors.

use serde::Serialize;

use super::ApiKey;

/// See the module's docs. Times are texts, as everywhere in the API.
#[derive(Debug, Serialize)]
pub struct KeyShown<'a> {
    prefix: &'a str,
    name: &'a str,
    role: &'static str,
    tenant: Option<&'a str>,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

impl<'a> From<&'a ApiKey> for KeyShown<'a> {
    fn from(key: &'a ApiKey) -> Self {
        Self {
            prefix: key.prefix.as_str(),
            name: &key.name,
            role: key.role.as_str(),
            tenant: key.tenant.as_deref(),
            created_at: key.created_at.to_string(),
            expires_at: key.expires_at.map(|at| at.to_string()),
            revoked_at: key.revoked_at.map(|at| at.to_string()),
        }
    }
}
