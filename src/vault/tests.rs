use super::*;

const OWNER: Owner<'_> = Owner { tenant: "acme", subscription: SubscriptionId(7) };

fn secret(text: &str) -> SecretString {
    text.into()
}

fn opened(vault: &Vault, sealed: &Sealed) -> Result<String, Unopened> {
    vault.open(sealed, Purpose::Secret, OWNER).map(|secret| secret.expose_secret().to_owned())
}

fn vault(keys: &[&MasterKey]) -> Vault {
    Vault::new(keys.iter().copied().cloned().collect(), false)
}

#[test]
fn what_was_sealed_opens_and_shows_nothing_of_itself() {
    let key = MasterKey::generate();
    for text in ["hunter2", "", "h\u{e9}llo \0 \u{2713}", &"x".repeat(1024)] {
        let sealed = vault(&[&key]).seal(&secret(text), Purpose::Secret, OWNER).unwrap();
        assert_eq!(opened(&vault(&[&key]), &sealed).as_deref(), Ok(text));
        assert!(sealed.as_str().starts_with(&format!("sealed:{}:", key.id())));
        assert!(text.is_empty() || !sealed.as_str().contains(text), "{}", sealed.as_str());
    }
}

#[test]
fn the_same_secret_is_sealed_differently_every_time() {
    let vault = vault(&[&MasterKey::generate()]);
    let sealed = || vault.seal(&secret("hunter2"), Purpose::Secret, OWNER).unwrap();
    assert_ne!(sealed().as_str(), sealed().as_str());
}

#[test]
fn the_first_key_seals_and_every_key_opens() {
    let (old, new) = (MasterKey::generate(), MasterKey::generate());
    let before = vault(&[&old]).seal(&secret("hunter2"), Purpose::Secret, OWNER).unwrap();
    let both = vault(&[&new, &old]);
    assert_eq!(opened(&both, &before).as_deref(), Ok("hunter2"));
    let after = both.seal(&secret("hunter2"), Purpose::Secret, OWNER).unwrap();
    assert!(both.is_sealed_under_first(&after) && !both.is_sealed_under_first(&before));
    assert_eq!(opened(&vault(&[&old]), &after), Err(Unopened::NoSuchKey(new.id().to_owned())));
}

#[test]
fn what_is_moved_to_another_tenant_subscription_or_purpose_does_not_open() {
    let key = MasterKey::generate();
    let vault = vault(&[&key]);
    let sealed = vault.seal(&secret("hunter2"), Purpose::Secret, OWNER).unwrap();
    let refused = Err(Unopened::Refused(key.id().to_owned()));
    for owner in [Owner { tenant: "acm", ..OWNER }, Owner { subscription: SubscriptionId(8), ..OWNER }] {
        assert_eq!(vault.open(&sealed, Purpose::Secret, owner).map(drop), refused);
    }
    assert_eq!(vault.open(&sealed, Purpose::Ed25519Seed, OWNER).map(drop), refused);
}

#[test]
fn no_two_owners_share_their_associated_data() {
    let of = |tenant, id| bound_to(Purpose::Secret, Owner { tenant, subscription: SubscriptionId(id) });
    assert_ne!(of("a\0", 1), of("a", 1));
    assert_ne!(of("1", 1), of("", 11));
    assert_ne!(of("", 0x31), of("1", 0));
}

#[test]
fn one_changed_character_does_not_open() {
    let vault = vault(&[&MasterKey::generate()]);
    let sealed = vault.seal(&secret("hunter2"), Purpose::Secret, OWNER).unwrap();
    for at in 0..sealed.as_str().len() {
        let mut bytes = sealed.as_str().as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = Sealed::of(String::from_utf8(bytes).unwrap());
        assert!(opened(&vault, &changed).is_err(), "{at}");
    }
}

#[test]
fn what_is_no_sealed_text_is_malformed() {
    let key = MasterKey::generate();
    let short = format!("sealed:{}:AAAA", key.id());
    let no_base64 = format!("sealed:{}:hunter2!", key.id());
    for text in ["", "hunter2", "sealed:", "sealed:hunter2", &short, &no_base64] {
        assert_eq!(opened(&vault(&[&key]), &Sealed::of(text.to_owned())), Err(Unopened::Malformed), "{text}");
    }
}

#[test]
fn without_a_key_secrets_are_refused_except_in_development() {
    assert_eq!(vault(&[]).seal(&secret("hunter2"), Purpose::Secret, OWNER).map(drop), Err(NoMasterKey));
    let dev = Vault::new(Vec::new(), true);
    let plain = dev.seal(&secret("a:b"), Purpose::Secret, OWNER).unwrap();
    assert_eq!(plain.as_str(), "plain:a:b");
    assert!(is_plain(&plain) && !dev.is_sealed_under_first(&plain));
    // Also where there is a key by now: until it is sealed, what it signs must not fail.
    assert_eq!(opened(&vault(&[&MasterKey::generate()]), &plain).as_deref(), Ok("a:b"));
}

#[test]
fn errors_and_debug_name_keys_and_show_none() {
    let key = MasterKey::generate();
    let shown = format!("{:?} {:?}", vault(&[&key]), Unopened::NoSuchKey(key.id().to_owned()));
    assert!(shown.contains(key.id()) && !shown.contains(key.to_base64().expose_secret()), "{shown}");
}
