//! `Idempotency-Key`: the same request, sent again under the same key, is answered as it was the first time. Here the
//! header is checked and the request is reduced to what it is compared by; that a key is used once is the store's to say.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use warp::Filter;
use warp::http::{HeaderName, HeaderValue};
use warp::reply::Response;

use super::problem::{FieldError, Problem, quoted};
use crate::actors::RequestKey;

const KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Room for any UUID, hash or path, and short enough for an index.
const MAX_KEY_CHARS: usize = 255;
const EXPECTED: &str = "1 to 255 printable ASCII characters";

/// The header as it came. Reading it never fails, so that a handler can refuse it by name.
#[derive(Clone, Debug)]
pub(super) struct Key(Arc<str>);

impl FromStr for Key {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.into()))
    }
}

/// The header, if it was sent.
pub(super) fn key() -> impl Filter<Extract = (Option<Key>,), Error = warp::Rejection> + Copy {
    warp::header::optional(KEY)
}

impl Key {
    /// The key with the hash of all that makes the request. The parts and their order are the same for every request
    /// of a kind; `None` is a part that was not sent.
    pub fn of_request(self, parts: &[Option<&[u8]>]) -> Result<RequestKey, Problem> {
        let Self(key) = self;
        let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if !(1..=MAX_KEY_CHARS).contains(&key.len()) || !key.bytes().all(printable) {
            return Err(Problem::parameter(FieldError::new("header Idempotency-Key", quoted(&key), EXPECTED)));
        }
        Ok(RequestKey { key, request_hash: hash(parts) })
    }
}

/// Every part goes in behind its length, so that no two lists of parts make the same bytes.
fn hash(parts: &[Option<&[u8]>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        match part {
            None => hash.update([0]),
            Some(bytes) => {
                hash.update([1]);
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
        }
    }
    hash.finalize().into()
}

/// Says of an answer that it was given before.
pub(super) fn mark(mut response: Response, replayed: bool) -> Response {
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Kind;

    fn key(text: &str) -> Key {
        Key(text.into())
    }

    #[test]
    fn a_key_is_kept_as_it_was_sent() {
        for text in ["a", "order 7/created", "\"8e03978e\"", &"~".repeat(MAX_KEY_CHARS)] {
            assert_eq!(&*key(text).of_request(&[]).expect(text).key, text);
        }
    }

    #[test]
    fn a_key_that_is_empty_too_long_or_not_printable_is_refused_by_the_headers_name() {
        for text in ["", "a\tb", "é", &"x".repeat(MAX_KEY_CHARS + 1)] {
            let problem = key(text).of_request(&[]).expect_err(text);
            assert_eq!(problem.kind(), Kind::InvalidParameter);
            assert!(format!("{problem:?}").contains("header Idempotency-Key"), "{problem:?}");
        }
    }

    #[test]
    fn requests_that_differ_only_in_where_their_parts_end_have_different_hashes() {
        let different: [&[Option<&[u8]>]; 7] = [
            &[Some(b"ab"), Some(b"c")],
            &[Some(b"a"), Some(b"bc")],
            &[Some(b""), Some(b"abc")],
            &[None, Some(b"abc")],
            &[Some(b"abc"), None],
            &[Some(b"abc"), Some(b"")],
            &[Some(b"abc")],
        ];
        let hashes: std::collections::BTreeSet<_> = different.map(hash).into();
        assert_eq!(hashes.len(), different.len());
    }

    #[test]
    fn the_hash_of_a_request_never_changes() {
        // Keys outlive a process and an upgrade of it: 01, the length in eight bytes, `a`; then 00.
        let expected = Sha256::digest(b"\x01\0\0\0\0\0\0\0\x01a\0");
        assert_eq!(hash(&[Some(b"a"), None]), expected[..]);
    }

    #[test]
    fn only_a_replayed_answer_is_marked() {
        assert_eq!(mark(Response::default(), true).headers()[REPLAYED], "true");
        assert!(!mark(Response::default(), false).headers().contains_key(REPLAYED));
    }
}
