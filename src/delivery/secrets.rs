//! What a subscription signs and verifies with, as it is kept: sealed texts. What is in them, and how they are opened, is
//! not the business of this module, nor of any store or cache.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Timestamp;

/// A secret as it is kept. Without a master key that is the secret itself, behind a word that says so: shown by nothing.
#[derive(Clone)]
pub struct Sealed(SecretString);

impl Sealed {
    /// Takes over what was sealed, or read back.
    pub fn of(text: String) -> Self {
        Self(text.into())
    }

    /// For whoever opens it, stores it, or compares it with what is stored.
    pub fn as_str(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(..)")
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::of)
    }
}

/// Most secrets that count beside the current one: each is one more signature of every attempt.
pub const MAX_PREVIOUS: usize = 3;

/// All that a subscription signs and verifies with. One that has nothing has no `Secrets` at all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Secrets {
    /// Signs what is delivered, and verifies what is ingested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Sealed>,
    /// Those that it has replaced, the newest first, for as long as they count beside it. At most [`MAX_PREVIOUS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub previous: Vec<Previous>,
    /// For receivers that are to verify and not to sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ed25519: Option<KeyPair>,
}

/// A secret that was replaced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Previous {
    /// Signs and verifies as before, beside the current one.
    pub secret: Sealed,
    /// From then on it does not any more.
    pub until: Timestamp,
}

impl Previous {
    /// Whether it still does.
    pub fn counts(&self, now: Timestamp) -> bool {
        now < self.until
    }
}

/// Before there could be several, the one stood there by itself.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Previous>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Many(Vec<Previous>),
        One(Previous),
    }
    Ok(match Stored::deserialize(deserializer)? {
        Stored::Many(many) => many,
        Stored::One(one) => vec![one],
    })
}

/// An ed25519 key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyPair {
    /// Its 32 bytes, in base64.
    pub seed: Sealed,
    /// As receivers get it.
    pub public_key: String,
}

impl Secrets {
    /// Every sealed text in it.
    pub fn sealed(&self) -> impl Iterator<Item = &Sealed> {
        let previous = self.previous.iter().map(|previous| &previous.secret);
        let seed = self.ed25519.as_ref().map(|pair| &pair.seed);
        self.current.iter().chain(previous).chain(seed)
    }

    /// The rest of it, once what is lost is taken away.
    pub fn without(mut self, is_lost: impl Fn(&Sealed) -> bool) -> Self {
        self.current = self.current.filter(|sealed| !is_lost(sealed));
        self.previous.retain(|previous| !is_lost(&previous.secret));
        self.ed25519 = self.ed25519.filter(|pair| !is_lost(&pair.seed));
        self
    }

    /// The names of the fields, as callers set them, that are others than in `other`. What is sealed anew is another.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let text = |sealed: &Option<Sealed>| sealed.as_ref().map(|sealed| sealed.as_str().to_owned());
        let key = |pair: &Option<KeyPair>| pair.as_ref().map(|pair| pair.public_key.clone());
        let secret = text(&self.current) != text(&other.current) || self.previous.len() != other.previous.len();
        let ed25519 = key(&self.ed25519) != key(&other.ed25519);
        [("secret", secret), ("ed25519", ed25519)]
            .into_iter()
            .filter_map(|(name, differs)| differs.then_some(name))
            .collect()
    }

    /// Itself, if there is anything in it.
    pub fn unless_empty(self) -> Option<Self> {
        let is_empty = self.sealed().next().is_none();
        (!is_empty).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        let sealed = |text: &str| Sealed::of(format!("plain:{text}"));
        Secrets {
            current: Some(sealed("hunter1")),
            previous: vec![Previous { secret: sealed("hunter2"), until: Timestamp(7) }],
            ed25519: Some(KeyPair { seed: sealed("hunter3"), public_key: "whpk_A".to_owned() }),
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", secrets());
        assert!(!shown.contains("hunter") && shown.contains("whpk_A"), "{shown}");
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = serde_json::to_string(&secrets()).unwrap();
        let read: Secrets = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(read.sealed().count(), 3);
    }

    #[test]
    fn a_previous_one_that_was_written_by_itself_is_read() {
        let text = serde_json::to_string(&secrets()).unwrap().replace(['[', ']'], "");
        let read: Secrets = serde_json::from_str(&text).unwrap();
        assert_eq!((read.previous[0].secret.as_str(), read.previous.len()), ("plain:hunter2", 1));
    }

    #[test]
    fn what_differs_is_named_as_callers_set_it() {
        let none = Secrets::default();
        assert_eq!(secrets().differences(&none), ["secret", "ed25519"]);
        assert_eq!(secrets().differences(&secrets()), [""; 0]);
        assert_eq!(secrets().differences(&Secrets { ed25519: None, ..secrets() }), ["ed25519"]);
        assert_eq!(Secrets { previous: Vec::new(), ..secrets() }.differences(&secrets()), ["secret"]);
    }

    #[test]
    fn nothing_in_it_is_nothing_at_all() {
        assert!(Secrets::default().unless_empty().is_none());
        assert!(Secrets { ed25519: secrets().ed25519, ..Secrets::default() }.unless_empty().is_some());
    }
}
