//! A master key: how it is written, and the name that it goes by.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox, SecretString};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Before the key, where its name is derived: what is hashed here is hashed for nothing else.
const NAME_DOMAIN: &[u8] = b"hookpost master key\0";
/// Of the hash, what is the name: enough to tell a handful of keys apart, and it is read aloud in errors.
const NAME_BYTES: usize = 4;

/// 32 random bytes that secrets are sealed under.
#[derive(Clone)]
pub struct MasterKey {
    key: Arc<SecretBox<[u8; 32]>>,
    id: String,
}

impl MasterKey {
    /// A fresh one, from the system's randomness.
    pub fn generate() -> Self {
        Self::of(SecretBox::init_with_mut(|key: &mut [u8; 32]| rand::fill(key)))
    }

    /// Reads base64 of 32 bytes. What is wrong is said without the text.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let decoded = BASE64.decode(text).map(Zeroizing::new).map_err(|_| "it is not base64".to_owned())?;
        let mut key = SecretBox::new(Box::new([0; 32]));
        if decoded.len() != 32 {
            return Err(format!("it is {} bytes long", decoded.len()));
        }
        key.expose_secret_mut().copy_from_slice(&decoded);
        Ok(Self::of(key))
    }

    fn of(key: SecretBox<[u8; 32]>) -> Self {
        let hash = Sha256::new().chain_update(NAME_DOMAIN).chain_update(key.expose_secret()).finalize();
        let id = hex::encode(&hash[..NAME_BYTES]);
        Self { key: Arc::new(key), id }
    }

    /// Its name: no secret, and stands with whatever is sealed under it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// As [`Self::parse`] reads it.
    pub fn to_base64(&self) -> SecretString {
        BASE64.encode(self.key.expose_secret()).into()
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        self.key.expose_secret()
    }
}

/// Shows its name and nothing else.
impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_keeps_its_name() {
        let key = MasterKey::generate();
        let read = MasterKey::parse(key.to_base64().expose_secret()).unwrap();
        assert_eq!((read.bytes(), read.id()), (key.bytes(), key.id()));
        assert_ne!(MasterKey::generate().id(), key.id());
        assert!(key.id().len() == 8 && key.id().bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", key.id());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        for (text, said) in [("hunter2!", "not base64"), ("aHVudGVyMg==", "7 bytes"), ("", "0 bytes")] {
            let error = MasterKey::parse(text).unwrap_err();
            assert!(error.contains(said) && !error.contains("hunter2"), "{error}");
        }
        assert!(MasterKey::parse(&BASE64.encode([7; 33])).unwrap_err().contains("33 bytes"));
    }

    #[test]
    fn debug_shows_the_name_only() {
        let key = MasterKey::parse(&BASE64.encode([7; 32])).unwrap();
        assert_eq!(format!("{key:?}"), format!("MasterKey({})", key.id()));
    }
}
