//! What must hold of target URLs, custom headers and signatures. The rules are stated a second time, in other words than
//! those of the code that keeps them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::SecretString;
use url::Url;

use super::guard::TargetPolicy;
use super::options::{MAX_HEADER_BYTES, MAX_HEADERS, RequestOptions};
use super::signing::{Message, SigningKeys, Verifier, seconds};
use super::target::Endpoint;
use crate::delivery::{DeliveryId, Timestamp};

/// Planted where nothing may repeat it.
const SECRET: &str = "hunter2";

/// Hosts and names are lowered.
fn names_secret(text: &str) -> bool {
    text.to_ascii_lowercase().contains(SECRET)
}

/// A URL that is accepted is dialled where it says, and nowhere private; one that is refused says so in a line. One with
/// credentials is refused, and they are not repeated.
pub fn target_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let planted = text.replacen("://", &format!("://{SECRET}@"), 1);
    if planted != text && !names_secret(text) {
        let refused = TargetPolicy::default().check_url(&planted).expect_err("credentials are refused");
        assert!(!refused.to_string().contains(SECRET), "{refused}");
    }
    let judged = TargetPolicy::default().check_url(text);
    let parsed = Endpoint::parse(text);
    if let Err(refused) = &judged {
        let said = refused.to_string();
        assert!(!said.contains(char::is_control), "more than a line: {said:?}");
        return;
    }
    let endpoint = parsed.expect("what the guard accepts is well spelled");
    assert_eq!(judged.as_deref(), Ok(text), "it is stored as it was given");
    let (scheme, rest) = text.split_once("://").expect("absolute");
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let (host, port) = split_port(authority);
    assert!(host.is_ascii() && !host.contains(['@', '\\', '#', '%', ' ']) && !host.ends_with('.'), "{host:?}");
    assert_eq!(endpoint.tls, scheme.eq_ignore_ascii_case("https"));
    let default = if endpoint.tls { 443 } else { 80 };
    assert_eq!(endpoint.port, port.map_or(default, |port| port.parse().expect("a number")));

    // The host that was written is the one that is dialled, asked for in `host`, and that another parser finds.
    let written: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    assert_eq!(endpoint.literal, written, "{host:?} is dialled as {:?}", endpoint.literal);
    match written {
        Some(address) => assert!(is_public(address), "{address} is private"),
        None => {
            assert!(endpoint.host().eq_ignore_ascii_case(host), "{host:?} is looked up as {:?}", endpoint.host());
            let local = format!(".{}", host.to_ascii_lowercase()).ends_with(".localhost");
            assert!(!looks_like_a_number(host) && !local, "{host:?}");
        }
    }
    assert_eq!(Url::parse(text).ok().as_ref().and_then(Url::host_str), Some(endpoint.host()));
    let asked = endpoint.host_header.to_str().expect("ASCII");
    assert_eq!(split_port(asked).0, endpoint.host());

    let sent = endpoint.uri.to_string();
    assert!(sent.starts_with('/') && sent.bytes().all(|byte| byte.is_ascii_graphic()), "{sent:?}");
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    let end = authority.rfind(']').unwrap_or(0);
    match authority[end..].rfind(':') {
        Some(colon) => (&authority[..end + colon], Some(&authority[end + colon + 1..])),
        None => (authority, None),
    }
}

/// What the C library and browsers take for an IPv4 address: the last label is a number in base 8, 10 or 16.
fn looks_like_a_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => {
            let [first, ..] = address.segments();
            let behind_nat64 = address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
            match address.to_ipv4_mapped() {
                Some(mapped) => is_public_v4(mapped),
                None if behind_nat64 => is_public_v4(last_four(address)),
                None => first & 0xe000 == 0x2000 && !is_special_v6(address) && !is_private_isatap(address),
            }
        }
    }
}

fn is_special_v6(address: Ipv6Addr) -> bool {
    let [first, second, third, ..] = address.segments();
    match first {
        0x2001 => second < 0x200 || second == 0xdb8,
        0x2002 | 0x3ffe => true,
        0x2620 => (second, third) == (0x4f, 0x8000),
        0x3fff => second < 0x1000,
        _ => false,
    }
}

fn is_private_isatap(address: Ipv6Addr) -> bool {
    let [.., flags, marker, _, _] = address.segments();
    (flags == 0 || flags == 0x200) && marker == 0x5efe && !is_public_v4(last_four(address))
}

fn last_four(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let tests = (a, b & 0xfe) == (198, 18) || (a, b, c) == (192, 0, 0);
    let anycast = [(192, 31, 196), (192, 52, 193), (192, 88, 99), (192, 175, 48)].contains(&(a, b, c));
    let azure = address == Ipv4Addr::new(168, 63, 129, 16);
    let named = address.is_private() || address.is_loopback() || address.is_link_local() || address.is_documentation();
    !named && !shared && !tests && !anycast && !azure && a != 0 && a < 224
}

/// Headers that are accepted are as many lines of a request's head as there are headers, and none that Hookpost sets.
/// Entries are divided by `|`, a name from its value by `=`.
pub fn request_headers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let asked: BTreeMap<String, String> = text
        .split('|')
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if !names_secret(text) {
        let planted = asked.iter().map(|(name, value)| (name.clone(), format!("{SECRET}{value}"))).collect();
        let said = format!("{:?}", RequestOptions::new(None, &planted));
        assert!(!said.contains(SECRET), "{said}");
    }
    let Ok(options) = RequestOptions::new(None, &asked) else { return };
    let head: String = options
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", value.to_str().expect("what is accepted is ASCII")))
        .collect();
    assert!(options.headers.len() == asked.len() && asked.len() <= MAX_HEADERS);
    assert!(head.len() <= MAX_HEADER_BYTES + 4 * MAX_HEADERS);
    assert!(head.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte) || b"\r\n".contains(&byte)));
    assert_eq!(head.split("\r\n").count(), asked.len() + 1, "{head:?}");
    for line in head.lines() {
        let (name, value) = line.split_once(": ").expect("a name and a value");
        assert!(asked.iter().any(|(asked, wanted)| asked.eq_ignore_ascii_case(name) && wanted == value), "{line:?}");
        let ours = ["webhook-", "x-hub-signature", "x-hookpost-", "proxy-"];
        let framing = [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "te",
            "upgrade",
            "expect",
            "trailer",
            "x-event-type",
        ];
        assert!(!framing.contains(&name) && !ours.iter().any(|prefix| name.starts_with(prefix)), "{line:?}");
    }
}

/// A signature is right for one key, one body, one id and one time. The first line is the key, the second what a stranger
/// sends as signature, the rest the body.
pub fn signature(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (key, claimed, body) = (String::from_utf8_lossy(line()), String::from_utf8_lossy(line()), line());
    let secret = SecretString::from(key.as_ref());
    let (keys, verifier) = (SigningKeys::of_secret(&secret), Verifier::new(Some(&secret), None));
    let hub = keys.hub_signature(body).expect("there is a secret");
    let (id, at) = (DeliveryId::MIN, Timestamp(1_700_000_000_000));
    let webhook = keys.webhook_signature(id, at, body);
    let (id, time) = (id.to_string(), seconds(at).to_string());
    let verify_hub = |body: &[u8], signature: &str| {
        let right = keys.verify_hub_signature(body, signature, at);
        assert_eq!(verifier.verify_hub_signature(body, signature), right, "who sends and who receives agree");
        right
    };
    let verify = |body: &[u8], signature: &str, timestamp: &str| {
        let message = Message { id: &id, timestamp, body };
        verifier.verify(&message, signature, at, Duration::from_secs(300)).is_ok()
    };
    assert!(verify_hub(body, &hub) && verify(body, &webhook, &time));

    for changed in changes(body) {
        assert!(!verify_hub(&changed, &hub) && !verify(&changed, &webhook, &time));
    }
    assert!(!verify(body, &webhook, "1700000001") && !verify(body, &webhook, ""));

    // A stranger's is right only if it spells the same code.
    let same_code =
        claimed.strip_prefix("sha256=").is_some_and(|hex| hex.eq_ignore_ascii_case(&hub["sha256=".len()..]));
    assert_eq!(verify_hub(body, &claimed), same_code, "{claimed:?}");
    let code = |signature: &str| signature.strip_prefix("v1,").and_then(|text| BASE64.decode(text).ok());
    let among = claimed.split(' ').any(|one| code(one).is_some() && code(one) == code(&webhook));
    assert!(!verify(body, &claimed, &time) || among, "{claimed:?}");
    let _ = verify(body, &claimed, &claimed);
}

/// Bodies that differ from this one in a bit, a byte more, a byte less.
fn changes(body: &[u8]) -> Vec<Vec<u8>> {
    let mut changes = vec![[body, b"\0"].concat(), [b" ", body].concat()];
    if let Some((last, rest)) = body.split_last() {
        changes.push(rest.to_vec());
        changes.push([rest, &[last ^ 1]].concat());
    }
    changes
}
