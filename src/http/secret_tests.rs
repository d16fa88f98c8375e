use super::*;
use crate::delivery::Secrets;
use crate::http::openapi::tests::assert_matches;
use crate::http::subscription_shown::tests::subscription;
use crate::vault::MasterKey;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn vault() -> Vault {
    Vault::new(vec![MasterKey::generate()], false)
}

fn rotation(body: &str) -> Rotation {
    Rotation::read(body.as_bytes()).unwrap()
}

/// The subscription after the rotation.
fn rotated(current: &Subscription, body: &str, vault: &Vault, now: Timestamp) -> Subscription {
    let change = rotation(body).of(current, vault, now).unwrap().unwrap();
    assert_eq!(change.only_version, Some(current.version));
    Subscription { secrets: change.secrets.unwrap().map(Arc::new), ..current.clone() }
}

fn shown(subscription: &Subscription, vault: &Vault, now: Timestamp) -> Value {
    let json = Shown::new(subscription, vault, now).unwrap().json();
    assert_matches("SecretShown", &json);
    json
}

#[test]
fn a_rotation_keeps_the_secret_that_it_replaces_for_as_long_as_asked() {
    let vault = vault();
    let rotated = rotated(&subscription(), r#"{"secret":"hunter3","overlap_s":60}"#, &vault, NOW);
    let json = shown(&rotated, &vault, NOW);
    assert_eq!((&json["secret"], &json["previous_secret"]), (&json!("hunter3"), &json!("hunter2")));
    assert_eq!(json["previous_valid_until"], "2023-11-14T22:14:20.000Z");
    let later = shown(&rotated, &vault, NOW + Duration::from_secs(60));
    assert_eq!((&later["secret"], &later["previous_secret"]), (&json!("hunter3"), &json!(null)));
}

#[test]
fn without_an_overlap_or_a_secret_there_is_no_previous_one() {
    let vault = vault();
    let at_once = rotated(&subscription(), r#"{"overlap_s":0}"#, &vault, NOW);
    assert_eq!(shown(&at_once, &vault, NOW)["previous_secret"], json!(null));
    let bare = Subscription { secrets: None, ..subscription() };
    let first = rotated(&bare, "", &vault, NOW);
    let json = shown(&first, &vault, NOW);
    assert!(json["secret"].as_str().unwrap().starts_with("whsec_") && json["previous_secret"].is_null());
    assert_eq!(Shown::new(&bare, &vault, NOW).err().unwrap().kind(), Kind::SecretNotFound);
}

#[test]
fn a_second_rotation_within_the_overlap_keeps_the_secret_that_receivers_have() {
    let vault = vault();
    let once = rotated(&subscription(), r#"{"secret":"hunter3"}"#, &vault, NOW);
    let twice = rotated(&once, r#"{"secret":"hunter4"}"#, &vault, NOW + Duration::from_secs(10));
    let json = shown(&twice, &vault, NOW);
    assert_eq!((&json["secret"], &json["previous_secret"]), (&json!("hunter4"), &json!("hunter3")));
    assert_eq!(json["previous_valid_until"], "2023-11-15T22:13:30.000Z", "a day by default");
    assert_eq!(secrets_of(&json), ["hunter3", "hunter2"]);
    assert_eq!(json["previous_secrets"][1]["valid_until"], "2023-11-15T22:13:20.000Z");
}

#[test]
fn a_fourth_previous_secret_is_refused_unless_the_others_end() {
    let vault = vault();
    let mut full = subscription();
    for n in 3..=5 {
        full = rotated(&full, &format!(r#"{{"secret":"hunter{n}"}}"#), &vault, NOW);
    }
    let refused = rotation("").of(&full, &vault, NOW).unwrap_err();
    assert_eq!(refused.kind(), Kind::TooManySecrets);
    assert!(!format!("{refused:?}").contains("hunter"));
    let cleared = rotated(&full, r#"{"secret":"hunter6","overlap_s":0}"#, &vault, NOW);
    assert!(secrets_of(&shown(&cleared, &vault, NOW)).is_empty());
    let later = rotated(&full, r#"{"secret":"hunter6"}"#, &vault, NOW + DEFAULT_OVERLAP);
    let json = shown(&later, &vault, NOW + DEFAULT_OVERLAP);
    assert_eq!(secrets_of(&json), ["hunter5"], "those that have ended give way");
    let json = shown(&rotated(&full, r#"{"secret":"hunter3"}"#, &vault, NOW), &vault, NOW);
    assert_eq!(secrets_of(&json), ["hunter5", "hunter4", "hunter2"], "one that comes back signs once");
}

fn secrets_of(shown: &Value) -> Vec<&str> {
    let previous = shown["previous_secrets"].as_array().unwrap();
    previous.iter().map(|one| one["secret"].as_str().unwrap()).collect()
}

#[test]
fn a_rotation_that_is_asked_for_twice_is_done_once_and_written_once() {
    let vault = vault();
    let once = rotated(&subscription(), r#"{"secret":"hunter3","overlap_s":60}"#, &vault, NOW);
    for body in [r#"{"secret":"hunter3","overlap_s":60}"#, r#"{"secret":"hunter3"}"#] {
        let again = rotation(body).of(&once, &vault, NOW + Duration::from_secs(10)).unwrap();
        assert!(again.is_none(), "{body}");
    }
}

#[test]
fn an_overlap_that_is_named_bounds_those_of_before_and_lengthens_none() {
    let vault = vault();
    let once = rotated(&subscription(), r#"{"secret":"hunter3","overlap_s":60}"#, &vault, NOW);
    let shorter = rotated(&once, r#"{"secret":"hunter3","overlap_s":5}"#, &vault, NOW);
    assert_eq!(shown(&shorter, &vault, NOW)["previous_valid_until"], "2023-11-14T22:13:25.000Z");
    let ended = rotated(&once, r#"{"secret":"hunter3","overlap_s":0}"#, &vault, NOW);
    assert!(secrets_of(&shown(&ended, &vault, NOW)).is_empty());
    let twice = rotated(&once, r#"{"secret":"hunter4","overlap_s":30}"#, &vault, NOW);
    let json = shown(&twice, &vault, NOW);
    assert_eq!(json["previous_secrets"][1]["valid_until"], json["previous_secrets"][0]["valid_until"]);
}

#[test]
fn the_ed25519_key_stays() {
    let pair = crate::delivery::KeyPair { seed: Sealed::of("plain:AAAA".to_owned()), public_key: "whpk_A".to_owned() };
    let keyed =
        Subscription { secrets: Some(Secrets { ed25519: Some(pair), ..Secrets::default() }.into()), ..subscription() };
    let rotated = rotated(&keyed, "{}", &vault(), NOW);
    assert_eq!(rotated.secrets.unwrap().ed25519.as_ref().unwrap().public_key, "whpk_A");
}

#[test]
fn a_rotation_is_refused_without_a_master_key_or_one_that_opens_the_current_secret() {
    let keyless = Vault::new(Vec::new(), false);
    let bare = Subscription { secrets: None, ..subscription() };
    assert_eq!(rotation("{}").of(&bare, &keyless, NOW).unwrap_err().kind(), Kind::NoMasterKey);
    let sealed = rotated(&subscription(), "{}", &vault(), NOW);
    assert_eq!(rotation("{}").of(&sealed, &vault(), NOW).unwrap_err().kind(), Kind::SecretLocked);
}

#[test]
fn what_is_wrong_with_a_rotation_is_named_and_no_secret_shown() {
    for (body, field) in [
        (r#"{"secret":null}"#, "secret"),
        (r#"{"secret":""}"#, "secret"),
        (r#"{"overlap_s":604801}"#, "overlap_s"),
        (r#"{"overlap_s":-1}"#, "overlap_s"),
        (r#"{"overlap_s":"hunter2"}"#, "overlap_s"),
        (r#"{"sekret":"hunter2"}"#, "sekret"),
    ] {
        let said = format!("{:?}", Rotation::read(body.as_bytes()).unwrap_err());
        assert!(said.contains(&format!("field: \"{field}\"")) && !said.contains("hunter2"), "{body}: {said}");
    }
    for edge in [0, 604_800] {
        assert_eq!(rotation(&format!(r#"{{"overlap_s":{edge}}}"#)).overlap, Some(Duration::from_secs(edge)));
    }
    assert!(!format!("{:?}", rotation(r#"{"secret":"hunter2"}"#)).contains("hunter2"));
}
