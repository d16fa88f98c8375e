//! Who calls: an extractor for every route that is not open to everyone. Handlers ask it for the permission they need.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use warp::Filter;
use warp::http::{HeaderValue, header};

use super::Http;
use super::body::{Bodies, Frames, Sent};
use super::problem::{Kind, Problem};
use crate::access::{Caller, KeyRing, Permission, Role, Token};

/// How a key is sent, as RFC 6750 has it.
const SCHEME: &str = "bearer";

/// What is known of the caller before the handler has said what it needs.
pub(super) struct Access(Result<Caller, Problem>);

impl Access {
    /// The caller, if they may do this.
    pub fn to(self, permission: Permission) -> Result<Caller, Problem> {
        let caller = self.0?;
        if caller.role.grants(permission) { Ok(caller) } else { Err(not_allowed(caller.role, permission)) }
    }

    /// As [`Self::to`], for what belongs to no tenant: whoever is confined to one may not have it.
    pub fn across_tenants(self, permission: Permission) -> Result<Caller, Problem> {
        let caller = self.to(permission)?;
        if caller.tenant.is_none() {
            return Ok(caller);
        }
        let role = caller.role.as_str();
        let detail = format!("this concerns the whole service, and the key, of role {role}, is confined to a tenant");
        Err(Problem::new(Kind::NotAllowed, detail))
    }

    /// As [`Self::to`], with the body. That of a caller who may not is discarded.
    pub async fn with_body(
        self,
        permission: Permission,
        bodies: &Bodies,
        sent: Sent<impl Frames>,
    ) -> Result<(Caller, Bytes), Problem> {
        match self.to(permission) {
            Ok(caller) => Ok((caller, bodies.read_or_discard(sent).await?)),
            Err(problem) => Err(bodies.discard(sent, problem).await),
        }
    }
}

/// Never fails, so that a route with a caller that is not known is not taken for another route.
pub(super) fn access(http: &Arc<Http>) -> impl Filter<Extract = (Access,), Error = Infallible> + Clone + use<> {
    let http = http.clone();
    let shown = warp::header::value(header::AUTHORIZATION.as_str()).map(Some).or(warp::any().map(|| None)).unify();
    shown.then(move |shown: Option<HeaderValue>| {
        let http = http.clone();
        async move { Access(caller(http.api.keys.as_deref(), shown.as_ref()).await) }
    })
}

/// Without a ring nobody is asked.
async fn caller(keys: Option<&KeyRing>, shown: Option<&HeaderValue>) -> Result<Caller, Problem> {
    let Some(keys) = keys else { return Ok(Caller::anonymous()) };
    let shown = shown.ok_or_else(key_missing)?;
    let token = token(shown).ok_or_else(key_wrong)?;
    let found = keys.check(&token).await?;
    found.ok_or_else(|| {
        tracing::debug!(prefix = %token.prefix, "a key was refused");
        key_wrong()
    })
}

fn token(shown: &HeaderValue) -> Option<Token> {
    let (scheme, key) = shown.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case(SCHEME) { Token::parse(key.trim()) } else { None }
}

fn key_missing() -> Problem {
    unauthorised(Kind::KeyMissing, "send an API key: Authorization: Bearer hp_…")
}

/// The same for one that never was, was revoked, has expired: strangers learn nothing.
fn key_wrong() -> Problem {
    let detail = "the header Authorization is not Bearer and an API key of this service, or the key was revoked or has \
                  expired";
    unauthorised(Kind::KeyWrong, detail)
}

fn unauthorised(kind: Kind, detail: &'static str) -> Problem {
    Problem::new(kind, detail).header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

fn not_allowed(role: Role, permission: Permission) -> Problem {
    let what = match permission {
        Permission::Ingest => "send events",
        Permission::Read => "look at anything",
        Permission::Manage => "change subscriptions",
        Permission::Administer => "administer the service",
    };
    let may: Vec<_> = Role::ALL.into_iter().filter(|role| role.grants(permission)).map(Role::as_str).collect();
    let detail =
        format!("a key of role {} may not {what}; this takes a key of role {}", role.as_str(), may.join(" or "));
    Problem::new(Kind::NotAllowed, detail)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn as_role(role: Role, tenant: Option<&str>) -> Access {
        Access(Ok(Caller { role, tenant: tenant.map(Into::into), ..Caller::anonymous() }))
    }

    #[test]
    fn who_may_not_is_told_their_role_and_what_it_takes() {
        let problem = as_role(Role::Producer, None).to(Permission::Manage).unwrap_err();
        assert_eq!(problem.kind(), Kind::NotAllowed);
        let said = format!("{problem:?}");
        assert!(said.contains("role producer may not change subscriptions"), "{said}");
        assert!(said.contains("role admin or tenant"), "{said}");
        assert!(as_role(Role::Producer, None).to(Permission::Ingest).is_ok());
    }

    #[test]
    fn what_concerns_the_whole_service_is_not_for_one_tenant() {
        assert!(as_role(Role::Reader, None).across_tenants(Permission::Read).is_ok());
        let problem = as_role(Role::Reader, Some("acme")).across_tenants(Permission::Read).unwrap_err();
        assert_eq!(problem.kind(), Kind::NotAllowed);
    }

    #[test]
    fn a_key_is_read_from_a_bearer_header_and_from_no_other() {
        let (text, kept) = Token::generate();
        let text = text.expose_secret();
        let read = |value: &str| token(&HeaderValue::from_str(value).unwrap());
        for value in [format!("Bearer {text}"), format!("bearer {text}"), format!("BEARER  {text}")] {
            assert_eq!(read(&value).expect("a key").prefix, kept.prefix);
        }
        for value in
            [text, &format!("Basic {text}"), &format!("Bearer{text}"), "Bearer", "Bearer ", "Bearer hunter2", ""]
        {
            assert!(read(value).is_none(), "{value}");
        }
        assert!(token(&HeaderValue::from_bytes(b"Bearer \xff").unwrap()).is_none());
    }

    #[tokio::test]
    async fn without_keys_nobody_is_asked() {
        let shown = HeaderValue::from_static("Bearer hunter2");
        assert_eq!(caller(None, Some(&shown)).await.unwrap().role, Role::Admin);
        assert!(caller(None, None).await.unwrap().tenant.is_none());
    }
}
