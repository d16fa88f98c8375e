//! The text of a key, `hp_<prefix>_<secret>`: made, read, and compared. The prefix names the key wherever it is shown; of
//! the secret only a hash is kept.

use std::fmt;
use std::str::FromStr;

use rand::distr::{Alphanumeric, SampleString};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What every key begins with, so that people and scanners of repositories recognise one.
const SCHEME: &str = "hp_";
/// Letters and digits: of a hundred thousand keys no two have the same.
const PREFIX_CHARS: usize = 10;
/// Letters and digits: 256 bits. Nobody guesses that, so that one fast hash keeps it.
const SECRET_CHARS: usize = 43;

/// Names a key. No secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix([u8; PREFIX_CHARS]);

impl Prefix {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Prefix {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = text.as_bytes().try_into().ok().filter(|bytes: &[u8; PREFIX_CHARS]| is_alphanumeric(bytes));
        bytes.map(Self).ok_or_else(|| format!("{text:?} is no prefix: these are {PREFIX_CHARS} letters and digits"))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// SHA-256 of a key's secret. It is compared in constant time and in no other way.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// As it is stored.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// As it is stored.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether it is the hash of the same secret, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

/// What a caller showed: whose key it says it is, and the hash of its secret.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    /// The key that it names.
    pub prefix: Prefix,
    /// To be compared with that key's.
    pub hash: KeyHash,
}

impl Token {
    /// A new key: its text, which is shown once, and what is kept of it.
    pub fn generate() -> (SecretString, Self) {
        let mut rng = rand::rng();
        let random = Alphanumeric.sample_string(&mut rng, PREFIX_CHARS + SECRET_CHARS);
        let (prefix, secret) = random.split_at(PREFIX_CHARS);
        let token = Self { prefix: prefix.parse().expect("letters and digits"), hash: KeyHash::of(secret) };
        (format!("{SCHEME}{prefix}_{secret}").into(), token)
    }

    /// Reads a key; `None` if it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let (prefix, secret) = text.strip_prefix(SCHEME)?.split_once('_')?;
        let is_secret = secret.len() == SECRET_CHARS && is_alphanumeric(secret.as_bytes());
        is_secret.then_some(Self { prefix: prefix.parse().ok()?, hash: KeyHash::of(secret) })
    }
}

fn is_alphanumeric(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_new_key_is_read_back_and_no_other_matches_it() {
        let (text, kept) = Token::generate();
        let shown = Token::parse(text.expose_secret()).unwrap();
        assert_eq!(shown.prefix, kept.prefix);
        assert!(shown.hash.matches(&kept.hash) && !shown.hash.matches(&Token::generate().1.hash));
        assert_ne!(Token::generate().1.prefix, kept.prefix);
    }

    #[test]
    fn a_key_says_what_it_is_and_has_256_random_bits() {
        let (text, kept) = Token::generate();
        let secret = text.expose_secret().strip_prefix(&format!("hp_{}_", kept.prefix)).unwrap().to_owned();
        assert_eq!(secret.len(), SECRET_CHARS);
        assert!(62_f64.log2() * SECRET_CHARS as f64 >= 256.0);
    }

    #[test]
    fn what_is_no_key_is_not_taken_for_one() {
        let (text, _) = Token::generate();
        let text = text.expose_secret();
        for wrong in [
            "",
            "hp_",
            "hp__",
            "hunter2",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}x"),
            &text.replace("hp_", "hq_"),
            &format!("{} ", &text[..text.len() - 1]),
            &format!("{}é", &text[..text.len() - 2]),
        ] {
            assert!(Token::parse(wrong).is_none(), "{wrong:?}");
        }
        for wrong in ["", "123456789", "12345678901", "123456789-", "12345678é"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_of_a_secret_is_shown_by_debug() {
        let (text, token) = Token::generate();
        assert_eq!(format!("{token:?}"), format!("Token {{ prefix: {}, hash: [hash] }}", token.prefix));
        assert!(!format!("{text:?}").contains(token.prefix.as_str()));
    }
}
