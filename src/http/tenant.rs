//! Which tenant a body means.

use super::problem::{FieldError, quoted};
use crate::access::{Caller, TENANT_EXPECTED, is_tenant};
use crate::delivery::DEFAULT_TENANT;

/// What is said of a name that cannot be used.
pub(super) const EXPECTED: &str = TENANT_EXPECTED;

/// Accepts what a tenant may be called.
pub(super) fn check(name: &str) -> Result<(), FieldError> {
    if is_tenant(name) { Ok(()) } else { Err(FieldError::new("tenant", quoted(name), EXPECTED)) }
}

/// The tenant that a caller means who named this one, or none.
pub(super) fn meant(caller: &Caller, named: Option<String>) -> Result<String, FieldError> {
    match (&caller.tenant, named) {
        (None, named) => Ok(named.unwrap_or_else(|| DEFAULT_TENANT.to_owned())),
        (Some(own), None) => Ok(own.to_string()),
        (Some(own), Some(named)) if **own == *named => Ok(named),
        (Some(own), Some(named)) => {
            let expected = format!("{own:?}, to which this key is confined, or nothing");
            Err(FieldError::new("tenant", quoted(&named), expected))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_used_is_refused() {
        assert_eq!(check("Acme-1.eu_west"), Ok(()));
        assert_eq!(check("a b").expect_err("refused").expected, EXPECTED);
    }

    #[test]
    fn who_is_confined_means_their_own_tenant_and_may_name_no_other() {
        let confined = Caller { tenant: Some("acme".into()), ..Caller::anonymous() };
        let named = |caller: &Caller, name: Option<&str>| meant(caller, name.map(str::to_owned));
        assert_eq!(named(&confined, None), Ok("acme".to_owned()));
        assert_eq!(named(&confined, Some("acme")), Ok("acme".to_owned()));
        assert_eq!(named(&confined, Some("default")).expect_err("refused").field, "tenant");
        assert_eq!(named(&Caller::anonymous(), None), Ok("default".to_owned()));
        assert_eq!(named(&Caller::anonymous(), Some("other")), Ok("other".to_owned()));
    }
}
