//! `/subscriptions/{id}/secret`, its rotation, and `/public-key`: what a subscription signs with, for those who may know.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{StatusCode, header};
use warp::reply::Response;

use super::access::{Access, access};
use super::body::{Frames, Sent, sent};
use super::problem::{FieldError, Kind, Problem, shortened};
use super::reply::{self, Answer, with_header};
use super::secrets_body::secret;
use super::subscription_body::{kind_of, object, refuse_if_any, whole_number};
use super::subscriptions::{Deed, merge, to_the_end};
use super::{Http, IdSegment, get_or_head, visible, with};
use crate::access::Permission;
use crate::audit::{Act, Action, Thing};
use crate::delivery::{MAX_PREVIOUS, Previous, Sealed, Secrets, Subscription, SubscriptionId, Timestamp};
use crate::outbound::signing::generate_secret;
use crate::store::SubscriptionChange;
use crate::vault::{Owner, Purpose, Vault};

/// A day: time for every receiver to be deployed once.
const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 3600);
/// Up to a week: a secret that has to go must not stay for longer by mistake.
const OVERLAP_S: RangeInclusive<u64> = 0..=7 * 24 * 3600;

const ROTATE_EXPECTED: &str = "nothing, or an object like {\"overlap_s\": 3600}";
const FIELDS: &str = "one of secret, overlap_s";
const SECRET_EXPECTED: &str = "a string of 1 to 256 characters; leave it out to have one made";
const OVERLAP_EXPECTED: &str = "a whole number of seconds from 0 to 604800";

/// The routes of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let show = warp::path!("subscriptions" / IdSegment / "secret").and(get_or_head());
    let show = show.and(with(http)).and(access(http)).then(secret_of);
    let rotate = warp::path!("subscriptions" / IdSegment / "secret" / "rotate").and(warp::post());
    let rotate = rotate.and(with(http)).and(access(http)).and(sent()).then(rotate_secret);
    let public_key = warp::path!("subscriptions" / IdSegment / "public-key").and(get_or_head());
    let public_key = public_key.and(with(http)).and(access(http)).then(public_key_of);
    show.or(rotate).unify().or(public_key).unify().map(reply::render).boxed()
}

async fn secret_of(segment: IdSegment, http: Arc<Http>, access: Access) -> Answer {
    let caller = access.to(Permission::Administer)?;
    let subscription = visible::subscription(&http, &caller, segment.id()?).await?;
    let now = http.api.clock.wall();
    let shown = Shown::new(&subscription, &http.api.vault, now)?;
    // First the record: what cannot be recorded is not shown.
    let act = Act::new(caller.actor, Action::SecretShown);
    let (id, tenant) = (Thing::Subscription(subscription.id), &*subscription.tenant);
    http.api.store.record(&act, &id, Some(tenant), now).await?;
    Ok(uncached(reply::json(StatusCode::OK, &shown.json())?))
}

async fn public_key_of(segment: IdSegment, http: Arc<Http>, access: Access) -> Answer {
    let caller = access.to(Permission::Read)?;
    let subscription = visible::subscription(&http, &caller, segment.id()?).await?;
    let pair = subscription.secrets.as_deref().and_then(|secrets| secrets.ed25519.as_ref());
    let pair = pair.ok_or_else(|| {
        let id = subscription.id;
        let detail =
            format!("subscription {id} has no ed25519 key; PATCH /subscriptions/{id} {{\"ed25519\": true}} makes one");
        Problem::new(Kind::PublicKeyNotFound, detail)
    })?;
    reply::json(StatusCode::OK, &json!({ "public_key": pair.public_key }))
}

fn uncached(response: Response) -> Response {
    with_header(response, header::CACHE_CONTROL, "no-store")
}

/// The secrets that count now, opened.
struct Shown {
    id: SubscriptionId,
    current: SecretString,
    /// The newest first.
    previous: Vec<(SecretString, Timestamp)>,
}

impl Shown {
    fn new(subscription: &Subscription, vault: &Vault, now: Timestamp) -> Result<Self, Problem> {
        let secrets = subscription.secrets.as_deref();
        let current = secrets.and_then(|secrets| secrets.current.as_ref()).ok_or_else(|| without(subscription.id))?;
        let previous = secrets.into_iter().flat_map(|secrets| &secrets.previous);
        let open = |sealed: &Sealed| {
            vault.open(sealed, Purpose::Secret, Owner::from(subscription)).map_err(|unopened| Problem::from(&unopened))
        };
        let previous = previous.filter(|previous| previous.counts(now));
        let previous = previous.map(|previous| Ok((open(&previous.secret)?, previous.until)));
        let previous = previous.collect::<Result<_, Problem>>()?;
        Ok(Self { id: subscription.id, current: open(current)?, previous })
    }

    fn json(&self) -> Value {
        let newest = self.previous.first();
        let all = self.previous.iter();
        let all =
            all.map(|(secret, until)| json!({ "secret": secret.expose_secret(), "valid_until": until.to_string() }));
        json!({
            "subscription_id": self.id,
            "secret": self.current.expose_secret(),
            "previous_secret": newest.map(|(secret, _)| secret.expose_secret()),
            "previous_valid_until": newest.map(|(_, until)| until.to_string()),
            "previous_secrets": all.collect::<Vec<_>>(),
        })
    }
}

fn without(id: SubscriptionId) -> Problem {
    let detail = format!("subscription {id} has no secret; POST /subscriptions/{id}/secret/rotate gives it one");
    Problem::new(Kind::SecretNotFound, detail)
}

async fn rotate_secret(segment: IdSegment, http: Arc<Http>, access: Access, sent: Sent<impl Frames>) -> Answer {
    let (caller, body) = access.with_body(Permission::Manage, &http.bodies, sent).await?;
    let id = segment.id()?;
    let rotation = Rotation::read(&body)?;
    let now = http.api.clock.wall();
    let (rotated, rotation) = to_the_end(async move {
        let rotated = merge(&http, &caller, id, |current| {
            let change = rotation.of(current, &http.api.vault, now)?;
            Ok(change.map(|change| (Deed { action: Action::SecretRotated, detail: None }, change)))
        })
        .await?;
        Ok((rotated, rotation))
    })
    .await?;
    let previous = rotated.secrets.as_deref().and_then(|secrets| secrets.previous.iter().find(|one| one.counts(now)));
    let answer = Rotated {
        subscription_id: id,
        secret: rotation.made.then(|| rotation.secret.expose_secret()),
        previous_valid_until: previous.map(|previous| previous.until.to_string()),
    };
    Ok(uncached(reply::json(StatusCode::OK, &answer)?))
}

#[derive(Serialize)]
struct Rotated<'a> {
    subscription_id: SubscriptionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    previous_valid_until: Option<String>,
}

/// What is asked for.
#[derive(Debug)]
struct Rotation {
    secret: SecretString,
    /// Whether it was made here, and is shown.
    made: bool,
    /// How long those before it count at most, if anything was said of it.
    overlap: Option<Duration>,
}

impl Rotation {
    fn read(body: &[u8]) -> Result<Self, Problem> {
        let fields = if body.is_empty() { serde_json::Map::new() } else { object(body, ROTATE_EXPECTED)? };
        let (mut given, mut overlap, mut errors) = (None, None, Vec::new());
        for (name, value) in fields {
            match &*name {
                "secret" => match secret(value, SECRET_EXPECTED) {
                    Ok(Some(secret)) => given = Some(secret),
                    Ok(None) => errors.push(FieldError::new("secret", "null", SECRET_EXPECTED)),
                    Err(error) => errors.push(error),
                },
                "overlap_s" => match whole_number(&value).filter(|seconds| OVERLAP_S.contains(seconds)) {
                    Some(seconds) => overlap = Some(Duration::from_secs(seconds)),
                    None => errors.push(FieldError::new("overlap_s", found(&value), OVERLAP_EXPECTED)),
                },
                name => errors.push(FieldError::new(shortened(name), "a field that does not exist", FIELDS)),
            }
        }
        refuse_if_any(errors)?;
        let made = given.is_none();
        Ok(Self { secret: given.unwrap_or_else(generate_secret), made, overlap })
    }

    /// The change of a subscription that is like this. Asked for again with the secret that is current by then, it changes
    /// nothing: whoever missed the answer may ask again, and those before that stay the previous ones.
    fn of(&self, current: &Subscription, vault: &Vault, now: Timestamp) -> Result<Option<SubscriptionChange>, Problem> {
        let owner = Owner::from(current);
        let open = |sealed: &Sealed| vault.open(sealed, Purpose::Secret, owner);
        let mut secrets = current.secrets.as_deref().cloned().unwrap_or_default();
        let shortened = self.shorten(&mut secrets.previous, now);
        if let Some(replaced) = secrets.current.take() {
            let opened = open(&replaced).map_err(|unopened| Problem::from(&unopened))?;
            if same(&opened, &self.secret) {
                secrets.current = Some(replaced);
                secrets.previous.retain(|previous| previous.counts(now));
                return Ok(shortened.then(|| written(secrets, current)));
            }
            let until = now + self.overlap.unwrap_or(DEFAULT_OVERLAP);
            secrets.previous.insert(0, Previous { secret: replaced, until });
            // One that comes back signs once, and not as its own predecessor.
            let comes_back = |sealed: &Sealed| open(sealed).is_ok_and(|opened| same(&opened, &self.secret));
            secrets.previous.retain(|previous| previous.counts(now) && !comes_back(&previous.secret));
            if secrets.previous.len() > MAX_PREVIOUS {
                return Err(too_many(current.id, &secrets.previous[1..]));
            }
        }
        secrets.current = Some(vault.seal(&self.secret, Purpose::Secret, owner)?);
        Ok(Some(written(secrets, current)))
    }

    /// An overlap that was asked for bounds that of earlier rotations, too: a secret that has to go is gone by then. Whether
    /// it makes a difference to one that counts.
    fn shorten(&self, previous: &mut [Previous], now: Timestamp) -> bool {
        let Some(end) = self.overlap.map(|overlap| now + overlap) else { return false };
        let mut shortened = false;
        for one in previous.iter_mut().filter(|one| one.counts(now) && end < one.until) {
            one.until = end;
            shortened = true;
        }
        shortened
    }
}

/// Until the first of them has come to its end. `previous` has at least one.
fn too_many(id: SubscriptionId, previous: &[Previous]) -> Problem {
    let first_end = previous.iter().map(|previous| previous.until).min().unwrap_or_default();
    let detail = format!(
        "subscription {id} has {MAX_PREVIOUS} previous secrets that still count, the most that it may; the first of them \
         ends at {first_end}. With a shorter overlap_s for the current secret those end, too, and with 0 all of them at once"
    );
    Problem::new(Kind::TooManySecrets, detail)
}

fn written(secrets: Secrets, current: &Subscription) -> SubscriptionChange {
    SubscriptionChange {
        secrets: Some(Some(secrets)),
        only_version: Some(current.version),
        ..SubscriptionChange::default()
    }
}

/// In constant time: a caller could otherwise guess the secret that is there.
fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret().as_bytes().ct_eq(other.expose_secret().as_bytes()).into()
}

/// A number of seconds that is none, as it is quoted back; anything else may be a secret in the wrong place.
fn found(value: &Value) -> String {
    if value.is_number() { value.to_string() } else { kind_of(value) }
}

#[cfg(test)]
#[path = "secret_tests.rs"]
mod tests;
