//! What a tenant may be called, wherever a body names one.

use super::problem::{FieldError, quoted};

/// Long enough for a UUID or a host name's label, short enough to index.
const MAX_TENANT_CHARS: usize = 64;

/// What is said of a name that cannot be used.
pub(super) const EXPECTED: &str = "a string of 1 to 64 letters, digits and . _ -";

/// Accepts 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub(super) fn check(name: &str) -> Result<(), FieldError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=MAX_TENANT_CHARS).contains(&name.len()) && name.bytes().all(legal) {
        return Ok(());
    }
    Err(FieldError::new("tenant", quoted(name), EXPECTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_name_has_limits_with_edges() {
        for name in ["a", "Acme-1.eu_west", &"x".repeat(MAX_TENANT_CHARS)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["", "a b", "a/b", "é", "a\n", &"x".repeat(MAX_TENANT_CHARS + 1)] {
            assert_eq!(check(name).expect_err(name).expected, EXPECTED);
        }
    }
}
