//! Reads what a body says of a subscription's secrets, and makes of it what is kept: the door at which secrets are sealed.
//! Of a secret only the length is ever said.

use secrecy::SecretString;
use serde_json::Value;

use super::problem::FieldError;
use super::subscription_body::kind_of;
use crate::delivery::{KeyPair, Sealed, Secrets};
use crate::outbound::signing::{Ed25519Key, generate_secret, is_encoded, looks_encoded};
use crate::vault::{NoMasterKey, Owner, Purpose, Vault};

/// Longer secrets add no strength: HMAC-SHA256 hashes them to 32 bytes first.
pub(super) const MAX_SECRET_CHARS: usize = 256;
const SECRET_EXPECTED: &str = "a string of 1 to 256 characters, or null for none";
const ENCODED_EXPECTED: &str = "base64 after whsec_, as other Standard Webhooks libraries read it";
const BOOLEAN_EXPECTED: &str = "true or false";
const GENERATED_EXPECTED: &str = "no secret beside generate_secret: it is made here";
/// A secret that is made at a change would be shown in an answer that others expect to hold none.
const ROTATE_INSTEAD: &str =
    "this only where a subscription is created; POST /subscriptions/{id}/secret/rotate makes another";

/// All fields of this file, as a body names them.
pub(super) const FIELDS: &str = "secret, generate_secret, ed25519";

/// What a body says of secrets. An outer `None` is a field that is absent.
#[derive(Debug, Default)]
pub(super) struct SecretsBody {
    secret: Option<Option<SecretString>>,
    generate: bool,
    ed25519: Option<bool>,
}

impl SecretsBody {
    /// Takes one of [`FIELDS`].
    pub fn take(&mut self, name: &str, value: Value, errors: &mut Vec<FieldError>) {
        let read = match name {
            "secret" => secret(value, SECRET_EXPECTED).map(|secret| self.secret = Some(secret)),
            "generate_secret" => boolean("generate_secret", &value).map(|generate| self.generate = generate),
            _ => boolean("ed25519", &value).map(|ed25519| self.ed25519 = Some(ed25519)),
        };
        errors.extend(read.err());
    }

    /// For a new subscription: makes the secret that was asked for.
    pub fn generated(mut self, errors: &mut Vec<FieldError>) -> Self {
        if self.generate && self.secret.as_ref().is_some_and(Option::is_some) {
            errors.push(FieldError::new("secret", "one beside generate_secret", GENERATED_EXPECTED));
        } else if self.generate {
            self.secret = Some(Some(generate_secret()));
        }
        self
    }

    /// For a subscription that is there.
    pub fn not_generated(&self, errors: &mut Vec<FieldError>) {
        if self.generate {
            errors.push(FieldError::new("generate_secret", "true", ROTATE_INSTEAD));
        }
    }

    /// The secret, if it was made here: then it is shown, once.
    pub fn shown_once(&self) -> Option<&SecretString> {
        self.secret.as_ref().and_then(Option::as_ref).filter(|_| self.generate)
    }

    /// Whether it says anything.
    pub fn is_named(&self) -> bool {
        self.secret.is_some() || self.ed25519.is_some()
    }

    /// The secrets with what was named in place of what was there, sealed. A secret that replaces another does so at once,
    /// without an overlap; a key that is there stays.
    pub fn over(
        &self,
        current: Option<&Secrets>,
        owner: Owner<'_>,
        vault: &Vault,
    ) -> Result<Option<Secrets>, NoMasterKey> {
        let mut secrets = current.cloned().unwrap_or_default();
        if let Some(secret) = &self.secret {
            secrets.current = secret.as_ref().map(|secret| vault.seal(secret, Purpose::Secret, owner)).transpose()?;
            secrets.previous.clear();
        }
        match self.ed25519 {
            Some(true) if secrets.ed25519.is_none() => secrets.ed25519 = Some(new_pair(owner, vault)?),
            Some(false) => secrets.ed25519 = None,
            _ => {}
        }
        Ok(secrets.unless_empty())
    }
}

fn new_pair(owner: Owner<'_>, vault: &Vault) -> Result<KeyPair, NoMasterKey> {
    let key = Ed25519Key::generate();
    let seed: Sealed = vault.seal(&key.seed(), Purpose::Ed25519Seed, owner)?;
    Ok(KeyPair { seed, public_key: key.public_key() })
}

/// A secret, or null. One that only looks encoded is refused: its text would be the key here, and a receiver's library
/// would not read it at all.
pub(super) fn secret(value: Value, expected: &'static str) -> Result<Option<SecretString>, FieldError> {
    let wrong = |found: String| Err(FieldError::new("secret", found, expected));
    match value {
        Value::Null => Ok(None),
        Value::String(text) if looks_encoded(&text) && !is_encoded(&text) => {
            Err(FieldError::new("secret", "whsec_ and what is no base64", ENCODED_EXPECTED))
        }
        Value::String(text) => match text.chars().count() {
            1..=MAX_SECRET_CHARS => Ok(Some(text.into())),
            length => wrong(format!("a string of {length} characters")),
        },
        other => wrong(kind_of(&other)),
    }
}

fn boolean(field: &'static str, value: &Value) -> Result<bool, FieldError> {
    match value {
        Value::Bool(value) => Ok(*value),
        other => Err(FieldError::new(field, kind_of(other), BOOLEAN_EXPECTED)),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;
    use crate::delivery::{Previous, SubscriptionId, Timestamp};
    use crate::vault::MasterKey;

    const OWNER: Owner<'_> = Owner { tenant: "acme", subscription: SubscriptionId(7) };

    fn vault() -> Vault {
        Vault::new(vec![MasterKey::generate()], false)
    }

    fn body(fields: &Value) -> SecretsBody {
        let (mut body, mut errors) = (SecretsBody::default(), Vec::new());
        for (name, value) in fields.as_object().unwrap() {
            body.take(name, value.clone(), &mut errors);
        }
        assert!(errors.is_empty(), "{errors:?}");
        body
    }

    fn opened(vault: &Vault, sealed: &Sealed) -> String {
        vault.open(sealed, Purpose::Secret, OWNER).unwrap().expose_secret().to_owned()
    }

    #[test]
    fn a_secret_is_sealed_and_replaces_the_current_and_the_previous_one_at_once() {
        let vault = vault();
        let first = body(&json!({"secret": "hunter1"})).over(None, OWNER, &vault).unwrap().unwrap();
        assert_eq!(opened(&vault, first.current.as_ref().unwrap()), "hunter1");
        let previous = vec![Previous { secret: first.current.clone().unwrap(), until: Timestamp::MAX }];
        let rotated = Secrets { previous, ..first };
        let second = body(&json!({"secret": "hunter2"})).over(Some(&rotated), OWNER, &vault).unwrap().unwrap();
        assert_eq!(opened(&vault, second.current.as_ref().unwrap()), "hunter2");
        assert!(second.previous.is_empty());
        let kept = body(&json!({"ed25519": true})).over(Some(&rotated), OWNER, &vault).unwrap().unwrap();
        assert!(!kept.previous.is_empty() && kept.current.is_some());
    }

    #[test]
    fn a_key_is_made_once_and_forgotten_on_request() {
        let vault = vault();
        let one = body(&json!({"ed25519": true})).over(None, OWNER, &vault).unwrap().unwrap();
        let same = body(&json!({"ed25519": true})).over(Some(&one), OWNER, &vault).unwrap().unwrap();
        let public_key = |secrets: &Secrets| secrets.ed25519.as_ref().unwrap().public_key.clone();
        assert_eq!(public_key(&one), public_key(&same));
        let seed = vault.open(&one.ed25519.as_ref().unwrap().seed, Purpose::Ed25519Seed, OWNER).unwrap();
        assert_eq!(Ed25519Key::of_seed(&seed).unwrap().public_key(), public_key(&one));
        assert!(body(&json!({"ed25519": false})).over(Some(&one), OWNER, &vault).unwrap().is_none());
    }

    #[test]
    fn nothing_named_changes_nothing_and_null_takes_the_secret_away() {
        let vault = vault();
        assert!(!body(&json!({})).is_named());
        let one = body(&json!({"secret": "hunter2"})).over(None, OWNER, &vault).unwrap().unwrap();
        let same = body(&json!({})).over(Some(&one), OWNER, &vault).unwrap().unwrap();
        assert_eq!(same.current.unwrap().as_str(), one.current.as_ref().unwrap().as_str());
        assert!(body(&json!({"secret": null})).over(Some(&one), OWNER, &vault).unwrap().is_none());
    }

    #[test]
    fn without_a_master_key_nothing_is_kept_and_taking_away_still_works() {
        let none = Vault::new(Vec::new(), false);
        for fields in [json!({"secret": "hunter2"}), json!({"ed25519": true})] {
            assert_eq!(body(&fields).over(None, OWNER, &none).map(drop), Err(NoMasterKey), "{fields}");
        }
        assert!(body(&json!({"secret": null, "ed25519": false})).over(None, OWNER, &none).unwrap().is_none());
    }

    #[test]
    fn a_secret_is_made_on_request_and_only_then_shown() {
        let mut errors = Vec::new();
        let made = body(&json!({"generate_secret": true})).generated(&mut errors);
        assert!(made.shown_once().unwrap().expose_secret().starts_with("whsec_"));
        for given in [json!({"secret": "hunter2"}), json!({"secret": "hunter2", "generate_secret": false})] {
            assert!(body(&given).generated(&mut errors).shown_once().is_none());
        }
        assert!(errors.is_empty());
        let both = body(&json!({"secret": "hunter2", "generate_secret": true})).generated(&mut errors);
        both.not_generated(&mut errors);
        assert_eq!(errors.iter().map(|error| &*error.field).collect::<Vec<_>>(), ["secret", "generate_secret"]);
        assert!(!format!("{errors:?} {both:?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_that_only_looks_encoded_is_refused_without_being_quoted() {
        for text in ["whsec_", "whsec_hunter2!", "whsec_aHVudGVyMg", "whsec_aHVudGVyMg== "] {
            let error = secret(json!(text), SECRET_EXPECTED).unwrap_err();
            assert_eq!((&*error.field, &*error.expected), ("secret", ENCODED_EXPECTED), "{text}");
            assert!(!format!("{error:?}").contains("hunter2") && !format!("{error:?}").contains("aHVu"), "{error:?}");
        }
        for text in ["whsec_aHVudGVyMg==", "hunter2", "WHSEC_hunter2", "whsec"] {
            assert!(secret(json!(text), SECRET_EXPECTED).unwrap().is_some(), "{text}");
        }
    }

    #[test]
    fn what_is_no_boolean_is_named() {
        let (mut body, mut errors) = (SecretsBody::default(), Vec::new());
        for field in ["ed25519", "generate_secret"] {
            body.take(field, json!("yes"), &mut errors);
        }
        assert_eq!(errors.iter().map(|error| &*error.field).collect::<Vec<_>>(), ["ed25519", "generate_secret"]);
    }
}
