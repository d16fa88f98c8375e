//! What a tenant may be called, wherever somebody names one.

/// Long enough for a UUID or a host name's label, short enough to index.
const MAX_TENANT_CHARS: usize = 64;

/// What is said of a name that cannot be used.
pub const TENANT_EXPECTED: &str = "a string of 1 to 64 letters, digits and . _ -";

/// Whether it is 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub fn is_tenant(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_TENANT_CHARS).contains(&name.len()) && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_name_has_limits_with_edges() {
        for name in ["a", "Acme-1.eu_west", &"x".repeat(MAX_TENANT_CHARS)] {
            assert!(is_tenant(name), "{name}");
        }
        for name in ["", "a b", "a/b", "é", "a\n", &"x".repeat(MAX_TENANT_CHARS + 1)] {
            assert!(!is_tenant(name), "{name}");
        }
    }
}
