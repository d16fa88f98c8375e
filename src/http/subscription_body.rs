//! Reads the bodies of `POST /subscriptions` and of `PUT` and `PATCH /subscriptions/{id}`, and says all that is wrong with
//! them at once. What is found is quoted only where it can be no secret: of a secret, its length.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::problem::{FieldError, Kind, Problem, quoted, shortened};
use super::secrets_body::{self, SecretsBody};
use super::settings_body::{self, SettingsBody};
use super::tenant;
use crate::access::Caller;
use crate::delivery::{EventTypePattern, Secrets, Settings, Subscription, SubscriptionId};
use crate::outbound::guard::TargetRefused;
use crate::store::{NewSubscription, SubscriptionChange};
use crate::vault::{NoMasterKey, Owner, Vault};

/// As long as browsers and proxies take.
const MAX_URL_CHARS: usize = 2048;
/// More patterns than this are better said with a wildcard; each is compared with every event.
pub(super) const MAX_EVENT_TYPES: usize = 100;

const FIELDS: &str = "one of target_url, event_type, tenant";
/// People send back what they were shown.
const HEADER_NAMES: &str = "headers, with their names and values; header_names only shows which there are";
const BODY_EXPECTED: &str = "an object like {\"target_url\": \"https://…\"}";
const URL_EXPECTED: &str = "an absolute http or https URL of up to 2048 characters";
const EVENT_TYPE_EXPECTED: &str = "an array of strings like [\"order.created\", \"order.*\"]; empty means every event";
const TENANT_KEPT: &str = "no tenant: a subscription keeps the one it was created with; create another subscription";

/// Judges a URL and returns it as it is stored.
pub(super) type CheckUrl<'a> = &'a dyn Fn(&str) -> Result<String, TargetRefused>;

/// The fields that were given, each checked. An outer `None` is a field that is absent.
#[derive(Debug, Default)]
struct Fields {
    target_url: Option<String>,
    event_types: Option<Vec<EventTypePattern>>,
    tenant: Option<String>,
    secrets: SecretsBody,
    settings: SettingsBody,
}

/// A new subscription, before it has an id and its secrets are sealed.
#[derive(Debug)]
pub(super) struct NewBody {
    target_url: String,
    event_types: Vec<EventTypePattern>,
    tenant: String,
    pub secrets: SecretsBody,
    settings: Settings,
}

impl NewBody {
    /// With the id that was reserved for it.
    pub fn sealed(&self, id: SubscriptionId, caller: &Caller, vault: &Vault) -> Result<NewSubscription, NoMasterKey> {
        Ok(NewSubscription {
            id,
            target_url: self.target_url.clone(),
            event_types: self.event_types.clone(),
            secrets: self.secrets.over(None, Owner { tenant: &self.tenant, subscription: id }, vault)?,
            tenant: self.tenant.clone(),
            by: caller.actor.clone(),
            settings: self.settings.clone(),
        })
    }
}

/// What a `POST` makes.
pub(super) fn new_subscription(body: &[u8], caller: &Caller, check_url: CheckUrl<'_>) -> Result<NewBody, Problem> {
    let (mut fields, mut errors) = fields(body, check_url)?;
    let secrets = fields.secrets.generated(&mut errors);
    if fields.target_url.is_none() && !errors.iter().any(|error| error.field == "target_url") {
        errors.insert(0, FieldError::new("target_url", "nothing", URL_EXPECTED));
    }
    let tenant = tenant::meant(caller, fields.tenant.take()).map_err(|error| errors.push(error));
    refuse_if_any(errors)?;
    Ok(NewBody {
        tenant: tenant.unwrap_or_default(),
        target_url: fields.target_url.unwrap_or_default(),
        event_types: fields.event_types.unwrap_or_default(),
        secrets,
        settings: fields.settings.over(&Settings::default()),
    })
}

/// What a body makes of a subscription that is there.
#[derive(Debug)]
pub(super) enum Change {
    /// `PUT`: settings that it does not name go back to their defaults, other fields that it does not name stay. Whatever
    /// it says, it also enables the subscription again: its owner has looked at it.
    Replace(ChangeBody),
    /// `PATCH`: what it names, and nothing else.
    Patch(ChangeBody),
}

/// The fields that it names.
#[derive(Debug)]
pub(super) struct ChangeBody(Fields);

impl ChangeBody {
    pub fn read(body: &[u8], check_url: CheckUrl<'_>) -> Result<Self, Problem> {
        let (mut fields, mut errors) = fields(body, check_url)?;
        if let Some(tenant) = fields.tenant.take() {
            errors.push(FieldError::new("tenant", quoted(&tenant), TENANT_KEPT));
        }
        fields.secrets.not_generated(&mut errors);
        refuse_if_any(errors)?;
        Ok(Self(fields))
    }
}

impl Change {
    /// The change of a subscription that is like this. What is written as a whole, with what was there in it, is written
    /// only while it is like this.
    pub fn of(&self, current: &Subscription, vault: &Vault) -> Result<SubscriptionChange, NoMasterKey> {
        let (Self::Replace(ChangeBody(fields)) | Self::Patch(ChangeBody(fields))) = self;
        let secrets = fields
            .secrets
            .is_named()
            .then(|| fields.secrets.over(current.secrets.as_deref(), Owner::from(current), vault));
        let secrets = secrets.transpose()?;
        let (target_url, event_types) = (fields.target_url.clone(), fields.event_types.clone());
        let common = SubscriptionChange { target_url, event_types, ..SubscriptionChange::default() };
        Ok(match self {
            Self::Replace(_) => SubscriptionChange {
                settings: Some(fields.settings.clone().over(&Settings::default())),
                disabled: Some(None),
                detail: Some("enabled by an update".to_owned()),
                only_version: secrets.is_some().then_some(current.version),
                secrets,
                ..common
            },
            Self::Patch(_) => SubscriptionChange {
                settings: Some(fields.settings.clone().over(&current.settings)),
                only_version: Some(current.version),
                secrets,
                ..common
            },
        })
    }
}

/// The names of the fields that a change makes different, for the audit; empty if it makes no difference.
pub(super) fn differences(current: &Subscription, change: &SubscriptionChange) -> Vec<String> {
    let differs = |name: &str, differs: bool| differs.then(|| name.to_owned());
    let mut names: Vec<_> = [
        differs("target_url", change.target_url.as_deref().is_some_and(|url| url != &*current.target_url)),
        differs("event_type", change.event_types.as_ref().is_some_and(|types| *types != current.event_types)),
        differs("disabled", change.disabled.is_some_and(|disabled| disabled != current.disabled)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let none = Secrets::default();
    let current_secrets = current.secrets.as_deref().unwrap_or(&none);
    let secrets = change.secrets.iter().flat_map(|new| new.as_ref().unwrap_or(&none).differences(current_secrets));
    names.extend(secrets.map(str::to_owned));
    names.extend(change.settings.iter().flat_map(|settings| settings.differences(&current.settings)));
    names.sort_unstable();
    names
}

pub(super) fn refuse_if_any(errors: Vec<FieldError>) -> Result<(), Problem> {
    if errors.is_empty() { Ok(()) } else { Err(Problem::with_errors(Kind::InvalidField, errors)) }
}

fn fields(body: &[u8], check_url: CheckUrl<'_>) -> Result<(Fields, Vec<FieldError>), Problem> {
    let (mut fields, mut errors) = (Fields::default(), Vec::new());
    for (name, value) in object(body, BODY_EXPECTED)? {
        match &*name {
            "target_url" => fields.target_url = kept(target_url(&value, check_url), &mut errors),
            "event_type" => fields.event_types = kept(event_types(&value), &mut errors),
            "secret" | "generate_secret" | "ed25519" => fields.secrets.take(&name, value, &mut errors),
            "tenant" => fields.tenant = kept(tenant_name(&value).map_err(|error| vec![error]), &mut errors),
            "header_names" => errors.push(FieldError::new(name, "a field that is only shown", HEADER_NAMES)),
            name if fields.settings.take(name, &value, &mut errors) => {}
            // A mistyped name may carry a secret: its value is not shown.
            name => {
                let expected = format!("{FIELDS}, {}, {}", secrets_body::FIELDS, settings_body::FIELDS);
                errors.push(FieldError::new(shortened(name), "a field that does not exist", expected));
            }
        }
    }
    Ok((fields, errors))
}

/// A body that has to be an object.
pub(super) fn object(body: &[u8], example: &'static str) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => {
            Err(Problem::with_errors(Kind::InvalidField, vec![FieldError::new("body", kind_of(&other), example)]))
        }
        Err(_) if body.is_empty() => {
            Err(Problem::new(Kind::InvalidJson, format!("the body is empty; expected {example}")))
        }
        Err(error) => Err(Problem::new(Kind::InvalidJson, format!("not JSON: {error}"))),
    }
}

fn kept<T>(read: Result<T, Vec<FieldError>>, errors: &mut Vec<FieldError>) -> Option<T> {
    read.map_err(|found| errors.extend(found)).ok()
}

fn target_url(value: &Value, check_url: CheckUrl<'_>) -> Result<String, Vec<FieldError>> {
    let wrong = |found: String, expected: String| vec![FieldError::new("target_url", found, expected)];
    let Value::String(url) = value else { return Err(wrong(kind_of(value), URL_EXPECTED.to_owned())) };
    if url.chars().count() > MAX_URL_CHARS {
        return Err(wrong(format!("{} characters", url.chars().count()), URL_EXPECTED.to_owned()));
    }
    // An @ announces a password more often than not.
    let shown = if url.contains('@') { "a URL with an @, not shown".to_owned() } else { quoted(url) };
    check_url(url).map_err(|refused| wrong(shown, format!("{URL_EXPECTED} ({refused})")))
}

fn event_types(value: &Value) -> Result<Vec<EventTypePattern>, Vec<FieldError>> {
    let wrong = |found: String| vec![FieldError::new("event_type", found, EVENT_TYPE_EXPECTED)];
    let names = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(names) => names,
        other => return Err(wrong(kind_of(other))),
    };
    if names.len() > MAX_EVENT_TYPES {
        let expected = format!("at most {MAX_EVENT_TYPES} event types; a wildcard like order.* stands for many");
        return Err(vec![FieldError::new("event_type", format!("{} of them", names.len()), expected)]);
    }
    let mut seen = BTreeSet::new();
    let (mut patterns, mut errors) = (Vec::with_capacity(names.len()), Vec::new());
    for (position, name) in names.iter().enumerate() {
        match pattern(position, name, &mut seen) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(patterns) } else { Err(errors) }
}

fn pattern<'a>(position: usize, name: &'a Value, seen: &mut BTreeSet<&'a str>) -> Result<EventTypePattern, FieldError> {
    let field = format!("event_type[{position}]");
    let Value::String(text) = name else { return Err(FieldError::new(field, kind_of(name), "a string")) };
    if !seen.insert(text) {
        return Err(FieldError::new(field, quoted(text), "each event type once"));
    }
    text.parse::<EventTypePattern>().map_err(|invalid| FieldError::new(field, quoted(text), invalid.expected))
}

fn tenant_name(value: &Value) -> Result<String, FieldError> {
    let Value::String(name) = value else { return Err(FieldError::new("tenant", kind_of(value), tenant::EXPECTED)) };
    tenant::check(name)?;
    Ok(name.clone())
}

/// A whole number from 0 on, as JSON Schema's `integer` means it: `9.0` and `9e0` are some, as some languages write them.
pub(super) fn whole_number(value: &Value) -> Option<u64> {
    let is_whole = |number: &f64| *number >= 0.0 && number.fract() == 0.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, and too large a one is as wrong as the largest"
    )]
    let of_double = |number: f64| number as u64;
    value.as_u64().or_else(|| value.as_f64().filter(is_whole).map(of_double))
}

/// What it is, without what it says.
pub(super) fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::delivery::{DisabledReason, Order};
    use crate::http::secrets_body::MAX_SECRET_CHARS;
    use crate::http::subscription_shown::tests::subscription;

    #[test]
    fn a_whole_number_may_be_written_with_a_point_or_an_exponent() {
        for (json, number) in
            [("9", Some(9)), ("9.0", Some(9)), ("9e2", Some(900)), ("-0.0", Some(0)), ("1e300", Some(u64::MAX))]
        {
            assert_eq!(whole_number(&serde_json::from_str(json).expect("JSON")), number, "{json}");
        }
        for json in ["9.5", "-1", "-1.0", "\"9\"", "null", "true"] {
            assert_eq!(whole_number(&serde_json::from_str(json).expect("JSON")), None, "{json}");
        }
    }

    fn body(text: &str) -> ChangeBody {
        ChangeBody::read(text.as_bytes(), &|url| Ok(url.to_owned())).unwrap()
    }

    /// What it makes of a subscription in development.
    fn patched(text: &str, current: &Subscription) -> SubscriptionChange {
        Change::Patch(body(text)).of(current, &dev()).unwrap()
    }

    fn replaced(text: &str) -> SubscriptionChange {
        Change::Replace(body(text)).of(&subscription(), &dev()).unwrap()
    }

    fn dev() -> Vault {
        Vault::new(Vec::new(), true)
    }

    fn create(body: &Value) -> Result<NewSubscription, Problem> {
        new(body).map(|new| new.sealed(SubscriptionId(1), &Caller::anonymous(), &dev()).unwrap())
    }

    fn new(body: &Value) -> Result<NewBody, Problem> {
        new_subscription(body.to_string().as_bytes(), &Caller::anonymous(), &|url| match url {
            "refused" => Err(TargetRefused("not public".to_owned())),
            url => Ok(url.to_owned()),
        })
    }

    /// The problem's text for a body with one field replaced.
    fn refusal(field: &str, value: Value) -> String {
        let mut body = json!({"target_url": "https://example.com/"});
        body[field] = value;
        let problem = create(&body).expect_err(field);
        assert_eq!(problem.kind(), Kind::InvalidField);
        format!("{problem:?}")
    }

    #[test]
    fn the_seeds_body_is_a_subscription() {
        let body = json!({"target_url": "https://a.example/", "event_type": ["order.created"], "secret": "mysecret"});
        let new = create(&body).unwrap();
        assert_eq!(new.target_url, "https://a.example/");
        assert_eq!(new.event_types[0].as_str(), "order.created");
        assert_eq!(new.secrets.unwrap().current.unwrap().as_str(), "plain:mysecret");
    }

    #[test]
    fn only_the_target_is_required() {
        let new = create(&json!({"target_url": "https://a.example/", "event_type": null, "secret": null})).unwrap();
        assert!(new.event_types.is_empty() && new.secrets.is_none());
        assert_eq!(create(&json!({})).unwrap_err().kind(), Kind::InvalidField);
    }

    #[test]
    fn wrong_fields_are_named_with_what_was_found_and_expected() {
        assert!(refusal("target_url", json!(7)).contains("a number"));
        assert!(refusal("target_url", json!(null)).contains("null"));
        assert!(refusal("target_url", json!("refused")).contains("not public"));
        assert!(refusal("event_type", json!("order.created")).contains("an array of strings"));
        assert!(refusal("event_type", json!(["a", 1])).contains("event_type[1]"));
        assert!(refusal("event_type", json!(["a b"])).contains("event_type[0]"));
        assert!(refusal("event_type", json!(["a", "a"])).contains("each event type once"));
        assert!(refusal("colour", json!("hunter2")).contains("colour"));
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let problem = create(&json!({"target_url": 1, "event_type": 2, "secret": 3})).unwrap_err();
        let said = format!("{problem:?}");
        assert!(["target_url", "event_type", "secret"].iter().all(|field| said.contains(field)), "{said}");
    }

    #[test]
    fn a_subscription_belongs_to_the_tenant_named_or_to_the_default() {
        let body = json!({"target_url": "https://a.example/"});
        assert_eq!(create(&body).unwrap().tenant, "default");
        let body = json!({"target_url": "https://a.example/", "tenant": "acme"});
        assert_eq!(create(&body).unwrap().tenant, "acme");
        assert!(refusal("tenant", json!("a b")).contains("a b"));
        assert!(refusal("tenant", json!(null)).contains("null"));
    }

    #[test]
    fn a_subscription_keeps_its_tenant() {
        let body = br#"{"tenant":"acme","secret":1,"generate_secret":true}"#;
        let said = format!("{:?}", ChangeBody::read(body, &|url| Ok(url.to_owned())).unwrap_err());
        assert!(said.contains("the one it was created with") && said.contains("256 characters"), "{said}");
        assert!(said.contains("secret/rotate"), "{said}");
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let with = |field: &str, value: Value| {
            let mut body = json!({"target_url": "https://example.com/"});
            body[field] = value;
            create(&body).is_ok()
        };
        let types = |count: usize| json!((0..count).map(|i| format!("t{i}")).collect::<Vec<_>>());
        assert!(with("event_type", types(MAX_EVENT_TYPES)) && !with("event_type", types(MAX_EVENT_TYPES + 1)));
        assert!(with("secret", json!("é".repeat(MAX_SECRET_CHARS))));
        assert!(!with("secret", json!("é".repeat(MAX_SECRET_CHARS + 1))) && !with("secret", json!("")));
        assert!(with("target_url", json!("x".repeat(MAX_URL_CHARS))));
        assert!(!with("target_url", json!("x".repeat(MAX_URL_CHARS + 1))));
    }

    #[test]
    fn nothing_that_may_be_secret_is_shown() {
        let long = "hunter2".repeat(100);
        for (field, value) in [("secret", json!(long)), ("sekret", json!("hunter2")), ("secret", json!(["hunter2"]))] {
            assert!(!refusal(field, value).contains("hunter2"));
        }
        let body = json!({"target_url": "https://user:hunter2@a.example/"});
        let refused = new_subscription(body.to_string().as_bytes(), &Caller::anonymous(), &|_| {
            Err(TargetRefused("credentials".to_owned()))
        });
        assert!(!format!("{:?}", refused.unwrap_err()).contains("hunter2"));
    }

    #[test]
    fn settings_stand_beside_the_other_fields() {
        let body = json!({"target_url": "https://a.example/", "max_concurrency": 4, "order": "fifo"});
        let settings = create(&body).unwrap().settings;
        assert_eq!((settings.max_concurrency, settings.order), (Some(4), Some(Order::Fifo)));
        let body = json!({"target_url": 1, "max_concurrency": 0, "rate_limit": {"per_second": 0}, "colour": "red"});
        let said = format!("{:?}", create(&body).unwrap_err());
        let named = ["target_url", "max_concurrency", "rate_limit.per_second", "colour", "disable_after_s"];
        assert!(named.iter().all(|field| said.contains(field)), "{said}");
        assert!(refusal("header_names", json!(["x-a"])).contains("names and values"));
    }

    #[test]
    fn a_patch_keeps_the_settings_that_it_does_not_name_and_the_state() {
        let settings = Settings { max_concurrency: Some(4), order: Some(Order::Fifo), ..Settings::default() };
        let disabled = Some(DisabledReason::ByHand);
        let current = Subscription { settings: settings.into(), disabled, version: 7, ..subscription() };
        let change = patched(r#"{"order":null,"secret":null}"#, &current);
        let kept = Settings { max_concurrency: Some(4), ..Settings::default() };
        assert_eq!((change.settings, change.only_version), (Some(kept), Some(7)));
        assert!(change.disabled.is_none() && change.target_url.is_none());
        assert!(matches!(change.secrets, Some(None)), "the secret goes");
        assert_eq!(patched("{}", &current).settings.as_ref(), Some(&*current.settings));
    }

    #[test]
    fn a_replacement_sets_back_the_settings_that_it_does_not_name() {
        let put = replaced(r#"{"max_backlog":10}"#);
        assert_eq!(put.settings, Some(Settings { max_backlog: Some(10), ..Settings::default() }));
        assert_eq!((put.disabled, put.only_version), (Some(None), None));
    }

    #[test]
    fn a_replacement_leaves_other_fields_that_are_absent_and_enables() {
        let seeds = replaced(r#"{"target_url":"https://b.example/","event_type":["order.updated"]}"#);
        assert!(seeds.secrets.is_none(), "the secret stays");
        assert_eq!(seeds.disabled, Some(None));
        let gone = replaced(r#"{"secret":null}"#);
        assert!(matches!(gone.secrets, Some(None)) && gone.only_version == Some(3), "the secret goes");
        assert!(replaced("{}").target_url.is_none());
    }
}
