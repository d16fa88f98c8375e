use std::time::Duration;

use super::*;

const FIVE_MINUTES: Duration = Duration::from_secs(300);

/// Of the tests that do not care when they take place.
const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn keys(secret: &str) -> SecretKeys {
    SecretKeys::new(&SecretString::from(secret))
}

/// During a rotation, until a second after [`NOW`].
fn rotated() -> SigningKeys {
    let (new, old) = (SecretString::from("hunter2"), SecretString::from("hunter1"));
    SigningKeys::new(Some(&new), &[(old, Timestamp(NOW.0 + 1000))], None)
}

fn message<'a>(id: &'a str, timestamp: &'a str, body: &'a str) -> Message<'a> {
    Message { id, timestamp, body: body.as_bytes() }
}

/// One secret's `v1`.
fn sign(secret: &str, message: &Message<'_>) -> String {
    let mut signature = String::new();
    keys(secret).sign(message, &mut signature);
    signature
}

/// Made by other implementations: secret, id, timestamp, body, signature.
const STANDARD_WEBHOOKS: [(&str, &str, &str, &str, &str); 3] = [
    (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "1614265330",
        r#"{"test": 2432232314}"#,
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    (
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        "1649367553",
        r#"{"email":"test@example.com","username":"test_user"}"#,
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    ),
    (
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "msg_unicode",
        "1700000000",
        r#"{"name":"héllo — ✓","n":1e400}"#,
        "v1,0zx1UPYqT6WmlUEMwXB7hLP4LqSVN/Ku1UgxqJ/W5uc=",
    ),
];

/// Made by other implementations: secret, body, signature.
const HUB: [(&str, &str, &str); 2] = [
    (
        "It's a Secret to Everybody",
        "Hello, World!",
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
    ),
    (
        "mysecret",
        r#"{"order_id":123,"amount":49.99}"#,
        "sha256=07f1da34b6ff57da613077d361ed7debaca285d7fed3c05254a2d82822b51d01",
    ),
];

#[test]
fn hub_signatures_are_those_of_other_implementations() {
    for (secret, body, signature) in HUB {
        assert_eq!(keys(secret).hub_signature(body.as_bytes()), signature);
        assert!(keys(secret).verify_hub_signature(body.as_bytes(), signature));
    }
}

#[test]
fn standard_webhooks_signatures_are_those_of_other_implementations() {
    for (secret, id, timestamp, body, signature) in STANDARD_WEBHOOKS {
        assert_eq!(sign(secret, &message(id, timestamp, body)), signature);
        let now = Timestamp(timestamp.parse::<i64>().unwrap() * 1000);
        let verifier = Verifier::new(Some(&secret.into()), None);
        assert_eq!(verifier.verify(&message(id, timestamp, body), signature, now, FIVE_MINUTES), Ok(()));
    }
}

#[test]
fn a_delivery_is_signed_with_its_id_and_whole_seconds() {
    let id: DeliveryId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let keys = SigningKeys::of_secret(&"any text".into());
    let signed = keys.webhook_signature(id, Timestamp(1_700_000_000_999), b"{}");
    assert_eq!(signed, sign("any text", &message("01890a5d-ac96-774b-bcce-b302099a8057", "1700000000", "{}")));
}

#[test]
fn an_encoded_secret_keys_the_hub_signature_with_its_text() {
    let (encoded, text) = (keys("whsec_AAECAwQFBgcICQoLDA0ODw=="), "whsec_AAECAwQFBgcICQoLDA0ODw==");
    assert_eq!(encoded.hub_signature(b"{}"), format!("sha256={}", hex::encode(code(text.as_bytes(), b"{}"))));
}

#[test]
fn a_secret_that_does_not_decode_is_its_own_key() {
    for secret in ["whsec_", "whsec_not base64!", "plain", ""] {
        let expected = BASE64.encode(code(secret.as_bytes(), b"a.1.{}"));
        assert_eq!(sign(secret, &message("a", "1", "{}")), format!("v1,{expected}"), "{secret:?}");
    }
}

fn code(key: &[u8], message: &[u8]) -> Vec<u8> {
    keyed(key).chain_update(message).finalize().into_bytes().to_vec()
}

#[test]
fn a_changed_body_or_another_key_is_not_verified() {
    let (secret, body, signature) = HUB[1];
    assert!(!keys(secret).verify_hub_signature(b"{\"order_id\":124,\"amount\":49.99}", signature));
    assert!(!keys("mysecret2").verify_hub_signature(body.as_bytes(), signature));
}

#[test]
fn only_sha256_and_64_hex_digits_are_a_hub_signature() {
    let (secret, body, signature) = HUB[1];
    let verify = |signature: &str| keys(secret).verify_hub_signature(body.as_bytes(), signature);
    let digits = &signature["sha256=".len()..];
    assert!(verify(&format!("sha256={}", digits.to_uppercase())));
    let bad = [digits.into(), format!("sha1={digits}"), format!("SHA256={digits}"), format!("{signature} ")];
    assert!(!bad.iter().any(|signature| verify(signature)));
    let cut = ["", "sha256=", &signature[..signature.len() - 1], &signature[..signature.len() - 2]];
    assert!(!cut.iter().any(|signature| verify(signature)));
    assert!(!verify(&format!("{signature}00")) && !verify(&format!("sha256={}", "zz".repeat(32))));
}

fn verify(header: &str, timestamp: &str, body: &str, now: i64) -> Result<(), BadSignature> {
    let (secret, id, ..) = STANDARD_WEBHOOKS[0];
    let now = Timestamp(now * 1000);
    Verifier::new(Some(&secret.into()), None).verify(&message(id, timestamp, body), header, now, FIVE_MINUTES)
}

#[test]
fn one_right_signature_among_several_is_enough() {
    let (.., timestamp, body, signature) = STANDARD_WEBHOOKS[0];
    let header = format!("v1a,AAAA v1,AAAA nonsense {signature}");
    assert_eq!(verify(&header, timestamp, body, 1_614_265_330), Ok(()));
}

#[test]
fn a_signature_is_bound_to_its_time_and_body() {
    let (.., timestamp, body, signature) = STANDARD_WEBHOOKS[0];
    assert_eq!(verify(signature, "1614265331", body, 1_614_265_330), Err(BadSignature::Mismatch));
    assert_eq!(verify(signature, timestamp, "{}", 1_614_265_330), Err(BadSignature::Mismatch));
    assert_eq!(verify("", timestamp, body, 1_614_265_330), Err(BadSignature::Mismatch));
}

#[test]
fn the_tolerance_holds_on_both_sides_and_at_its_edge() {
    let (.., timestamp, body, signature) = STANDARD_WEBHOOKS[0];
    for (now, expected) in [
        (1_614_265_330 + 300, Ok(())),
        (1_614_265_330 - 300, Ok(())),
        (1_614_265_330 + 301, Err(BadSignature::OutsideTolerance)),
        (1_614_265_330 - 301, Err(BadSignature::OutsideTolerance)),
    ] {
        assert_eq!(verify(signature, timestamp, body, now), expected, "{now}");
    }
}

#[test]
fn a_signature_with_any_byte_changed_is_not_verified() {
    let (secret, body, signature) = HUB[1];
    let keys = SigningKeys::of_secret(&secret.into());
    assert!(keys.verify_hub_signature(body.as_bytes(), signature, NOW));
    for at in HUB_PREFIX.len()..signature.len() {
        let mut changed = signature.as_bytes().to_vec();
        changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
        assert!(!keys.verify_hub_signature(body.as_bytes(), std::str::from_utf8(&changed).unwrap(), NOW), "{at}");
    }
}

#[test]
fn during_an_overlap_both_secrets_sign_and_verify_and_afterwards_the_new_one_alone() {
    let rotated = rotated();
    let at = message("a", "1700000000", "{}");
    let (new, old) = (sign("hunter2", &at), sign("hunter1", &at));
    let end = Timestamp(NOW.0 + 1000);
    assert_eq!(rotated.sign(&at, NOW), format!("{new} {old}"));
    assert_eq!(rotated.sign(&at, Timestamp(end.0 - 1)), format!("{new} {old}"));
    assert_eq!(rotated.sign(&at, end), new);
    let (new, old) = (keys("hunter2").hub_signature(b"{}"), keys("hunter1").hub_signature(b"{}"));
    assert_eq!(rotated.hub_signature(b"{}").as_ref(), Some(&new));
    assert_eq!(
        (rotated.previous_hub_signature(b"{}", NOW).as_ref(), rotated.previous_hub_signature(b"{}", end)),
        (Some(&old), None)
    );
    assert!(rotated.verify_hub_signature(b"{}", &new, NOW) && rotated.verify_hub_signature(b"{}", &old, NOW));
    assert!(rotated.verify_hub_signature(b"{}", &new, end) && !rotated.verify_hub_signature(b"{}", &old, end));
}

#[test]
fn after_several_rotations_each_secret_signs_until_its_own_end_and_the_oldest_is_the_previous_one() {
    let before = [("hunter2".into(), Timestamp(NOW.0 + 10)), ("hunter1".into(), Timestamp(NOW.0 + 20))];
    let keys_of = SigningKeys::new(Some(&"hunter3".into()), &before, Some(Ed25519Key::generate()));
    let at = message("a", "1700000000", "{}");
    for (now, counting) in
        [(0, &["hunter3", "hunter2", "hunter1"][..]), (10, &["hunter3", "hunter1"]), (20, &["hunter3"])]
    {
        let now = Timestamp(NOW.0 + now);
        let signed = keys_of.sign(&at, now);
        let expected: Vec<_> = counting.iter().map(|secret| sign(secret, &at)).collect();
        assert!(signed.starts_with(&format!("{} v1a,", expected.join(" "))), "{signed}");
        let oldest = counting.last().filter(|_| counting.len() > 1);
        assert_eq!(keys_of.previous_hub_signature(b"{}", now), oldest.map(|secret| keys(secret).hub_signature(b"{}")));
        for secret in ["hunter3", "hunter2", "hunter1"] {
            let verified = keys_of.verify_hub_signature(b"{}", &keys(secret).hub_signature(b"{}"), now);
            assert_eq!(verified, counting.contains(&secret), "{secret}");
        }
    }
}

#[test]
fn a_receiver_with_either_secret_accepts_what_is_sent_during_an_overlap() {
    let at = message("a", "1700000000", "{}");
    let signatures = rotated().sign(&at, NOW);
    for secret in ["hunter1", "hunter2"] {
        let verifier = Verifier::new(Some(&secret.into()), None);
        assert_eq!(verifier.verify(&at, &signatures, NOW, FIVE_MINUTES), Ok(()), "{secret}");
    }
    let stranger = Verifier::new(Some(&"hunter3".into()), None);
    assert_eq!(stranger.verify(&at, &signatures, NOW, FIVE_MINUTES), Err(BadSignature::Mismatch));
}

#[test]
fn an_ed25519_key_signs_beside_the_secrets_or_alone() {
    let at = message("a", "1700000000", "{}");
    let key = Ed25519Key::generate();
    let public: PublicKey = key.public_key().parse().unwrap();
    let seed = key.seed();
    let alone = SigningKeys::new(None, &[], Some(key)).sign(&at, NOW);
    assert!(alone.starts_with("v1a,") && !alone.contains(' '), "{alone}");
    let secret = SecretString::from("hunter2");
    let both = SigningKeys::new(Some(&secret), &[], Ed25519Key::of_seed(&seed)).sign(&at, NOW);
    assert_eq!(both, format!("{} {alone}", sign("hunter2", &at)));
    for verifier in [Verifier::new(None, Some(public.clone())), Verifier::new(Some(&secret), Some(public.clone()))] {
        assert_eq!(verifier.verify(&at, &both, NOW, FIVE_MINUTES), Ok(()));
    }
    let half_right = Verifier::new(Some(&"hunter1".into()), Some(public));
    assert_eq!(half_right.verify(&at, &both, NOW, FIVE_MINUTES), Err(BadSignature::Mismatch));
}

#[test]
fn without_a_secret_nothing_has_to_be_signed_and_no_signature_verifies() {
    let keys = SigningKeys::new(None, &[], Some(Ed25519Key::generate()));
    assert!(!keys.has_secret() && keys.hub_signature(b"{}").is_none());
    assert!(!keys.verify_hub_signature(b"{}", HUB[0].2, NOW));
}

#[test]
fn a_generated_secret_is_32_random_bytes_that_other_libraries_read() {
    let (one, other) = (generate_secret(), generate_secret());
    assert_ne!(one.expose_secret(), other.expose_secret());
    assert_eq!(decoded(one.expose_secret()).unwrap().len(), GENERATED_BYTES);
    let at = message("a", "1700000000", "{}");
    let theirs = standardwebhooks::Webhook::new(one.expose_secret()).unwrap().sign("a", 1_700_000_000, b"{}").unwrap();
    assert_eq!(sign(one.expose_secret(), &at), theirs);
}

#[test]
fn debug_shows_no_key() {
    assert_eq!(format!("{:?}", rotated()), "SigningKeys(..)");
}

#[test]
fn a_secret_costs_one_state_unless_its_text_is_not_its_key() {
    let state = size_of::<Hmac<Sha256>>();
    assert!(size_of::<SigningKeys>() <= state + 3 * size_of::<usize>(), "{}", size_of::<SigningKeys>());
    assert!(keys("plain").webhook.is_none() && keys("whsec_AAECAwQFBgcICQoLDA0ODw==").webhook.is_some());
}
