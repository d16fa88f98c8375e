//! A target URL: how it may be spelled, and what is derived from it once. Knows nothing of which addresses are allowed.
//!
//! The host that is checked must be the host that is dialled. So a URL is refused when two readers could differ on it,
//! instead of being repaired: other spellings of an address, credentials, backslashes, white space.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Uri};
use url::{Host, Url};

use super::guard::TargetRefused;

/// Longest target URL: what every proxy and server on the way is known to take.
pub const MAX_TARGET_URL_BYTES: usize = 2048;

/// Where a subscription's deliveries go, parsed once.
pub struct Target(pub(super) Result<Endpoint, TargetRefused>);

impl Target {
    /// Never fails: a URL that cannot be sent to makes every attempt a failure that says so.
    pub fn new(url: &str) -> Self {
        Self(Endpoint::parse(url))
    }

    /// Host and port, for people; nothing for a URL that is not well spelled.
    pub(super) fn authority(&self) -> &str {
        self.0.as_ref().map_or("", Endpoint::authority)
    }
}

/// Shows the host and no more: paths and queries of webhooks are often secret.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(endpoint) => write!(f, "Target({})", endpoint.authority()),
            Err(refused) => write!(f, "Target({refused})"),
        }
    }
}

/// A URL that is well spelled, as the pieces of which requests are made.
pub(super) struct Endpoint {
    /// Scheme, host and port (`https://example.com:443`): what shares connections.
    pub origin: Arc<str>,
    pub tls: bool,
    pub port: u16,
    /// The host, when it is an address: it will not pass the resolver.
    pub literal: Option<IpAddr>,
    /// The value of `host`.
    pub host_header: HeaderValue,
    /// Path and query alone.
    pub uri: Uri,
}

impl Endpoint {
    pub fn parse(text: &str) -> Result<Self, TargetRefused> {
        check_text(text)?;
        let authority = raw_authority(text)?;
        let url = Url::parse(text).map_err(|error| refuse(format!("the URL cannot be read: {error}")))?;
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => return Err(refuse("the URL names no host")),
        };
        let (scheme, host) = (url.scheme(), url.host_str().unwrap_or_default());
        let tls = scheme == "https";
        let port = url.port().unwrap_or(if tls { 443 } else { 80 });
        // Without the scheme's own port, as everyone sends it.
        let host_header = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let endpoint = Self {
            origin: format!("{scheme}://{host}:{port}").into(),
            tls,
            port,
            literal,
            host_header: HeaderValue::try_from(host_header).map_err(|_| cannot_be_sent())?,
            uri: path_and_query(&url)?,
        };
        endpoint.check_spelling(authority)?;
        Ok(endpoint)
    }

    /// As the resolver gets it; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        self.authority().rsplit_once(':').map_or("", |(host, _)| host)
    }

    /// Host and port, for people.
    pub fn authority(&self) -> &str {
        self.origin.split_once("://").map_or("", |(_, authority)| authority)
    }

    /// Host and port must be written the way they will be used.
    fn check_spelling(&self, authority: &str) -> Result<(), TargetRefused> {
        let (host, port) = split_port(authority);
        if host.ends_with('.') {
            return Err(refuse(format!("the host {host} ends with a dot; write it without")));
        }
        let same = match self.literal {
            Some(IpAddr::V6(address)) => host.trim_matches(['[', ']']).parse() == Ok(address),
            _ => host.eq_ignore_ascii_case(self.host()),
        };
        if !same {
            let meant = self.host();
            return Err(refuse(format!("the host {host} is another spelling of {meant}; write {meant} itself")));
        }
        port.map_or(Ok(()), check_port)
    }
}

/// What goes out is a `http::Uri`, which has rules of its own: it must exist, and mean the same host.
fn path_and_query(url: &Url) -> Result<Uri, TargetRefused> {
    let uri: Uri = url.as_str().parse().map_err(|_| cannot_be_sent())?;
    if uri.host() != url.host_str() {
        return Err(cannot_be_sent());
    }
    uri.into_parts().path_and_query.map(Uri::from).ok_or_else(cannot_be_sent)
}

fn cannot_be_sent() -> TargetRefused {
    refuse("the URL holds characters that cannot be sent; percent-encode them")
}

/// Whether the name is one of this machine's own (RFC 6761), whatever a resolver would say.
pub(super) fn is_local_name(name: &str) -> bool {
    let (name, local) = (name.as_bytes(), b"localhost");
    let Some(start) = name.len().checked_sub(local.len()) else { return false };
    name[start..].eq_ignore_ascii_case(local) && (start == 0 || name[start - 1] == b'.')
}

fn check_text(text: &str) -> Result<(), TargetRefused> {
    if text.len() > MAX_TARGET_URL_BYTES {
        let found = text.len();
        return Err(refuse(format!("the URL has {found} bytes; at most {MAX_TARGET_URL_BYTES} are accepted")));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '\\') {
        Some(found) => Err(refuse(format!(
            "the URL contains {found:?}; write other than printable ASCII, spaces and backslashes percent-encoded, and \
             an international host name in its xn-- form"
        ))),
        None => Ok(()),
    }
}

/// What stands between `//` and the path. Nothing of it is shown when it holds credentials.
fn raw_authority(text: &str) -> Result<&str, TargetRefused> {
    let expected = "expected an absolute URL such as https://example.com/hooks";
    let (scheme, rest) =
        text.split_once("://").ok_or_else(|| refuse(format!("the URL is not absolute; {expected}")))?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(refuse(format!("the URL's scheme is neither http nor https; {expected}")));
    }
    if text.contains('#') {
        return Err(refuse("the URL has a fragment (#…), which is never sent; leave it out"));
    }
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    if authority.contains('@') {
        return Err(refuse("the URL has credentials before an @; leave them out, deliveries are signed instead"));
    }
    if authority.is_empty() {
        return Err(refuse(format!("the URL names no host; {expected}")));
    }
    Ok(authority)
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // A colon inside the brackets belongs to the address.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn check_port(port: &str) -> Result<(), TargetRefused> {
    let number: u16 = port.parse().unwrap_or_default();
    if number == 0 || number.to_string() != port {
        return Err(refuse(format!("the port {port:?} is not a number from 1 to 65535")));
    }
    Ok(())
}

fn refuse(reason: impl Into<String>) -> TargetRefused {
    TargetRefused(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        match Endpoint::parse(url) {
            Ok(_) => panic!("{url:?} was accepted"),
            Err(TargetRefused(text)) => text,
        }
    }

    #[test]
    fn other_spellings_of_an_address_are_refused() {
        for host in ["0", "127.1", "2130706433", "0x7f.1", "017700000001", "0x7f000001", "127.0.0.01", "%31%32%37.1"] {
            assert!(refusal(&format!("http://{host}/")).contains("another spelling of"), "{host}");
        }
        assert!(refusal("http://127.1/").contains("127.0.0.1"));
    }

    #[test]
    fn a_trailing_dot_is_refused() {
        for host in ["127.0.0.1.", "localhost.", "example.com.", "example.com.:80"] {
            assert!(refusal(&format!("http://{host}/")).contains("ends with a dot"), "{host}");
        }
    }

    #[test]
    fn an_ipv6_address_is_known_in_every_spelling() {
        for host in ["[::ffff:127.0.0.1]", "[::FFFF:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]:8080"] {
            let endpoint = Endpoint::parse(&format!("http://{host}/")).unwrap();
            assert_eq!(endpoint.literal, Some("::ffff:127.0.0.1".parse().unwrap()), "{host}");
        }
    }

    #[test]
    fn what_a_parser_would_repair_is_refused() {
        for url in [
            "http://example.com\\@evil.example/",
            "http:\\\\example.com/",
            " http://example.com/",
            "http://exam\tple.com/",
            "http://example.com/\n",
            "http://example.com/a b",
            "http://ex\u{e4}mple.com/",
            "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
            "http://example.com/\0",
        ] {
            assert!(refusal(url).contains("percent-encoded"), "{url:?}");
        }
        for url in ["http:example.com", "http:/example.com", "example.com/hooks", "//example.com", "", "http:///a"] {
            assert!(refusal(url).contains("https://example.com/hooks"), "{url:?}");
        }
    }

    #[test]
    fn only_http_and_https_are_accepted() {
        for url in
            ["ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "unix://x", "httpss://example.com"]
        {
            assert!(refusal(url).contains("neither http nor https"), "{url:?}");
        }
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for url in ["http://user:hunter2@example.com/", "http://hunter2@example.com", "http://@example.com/"] {
            let text = refusal(url);
            assert!(text.contains("credentials") && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn a_fragment_is_refused() {
        assert!(refusal("http://example.com/#top").contains("fragment"));
        assert!(refusal("http://9.9.9.9#@example.com/").contains("fragment"));
    }

    #[test]
    fn ports_are_plain_numbers() {
        for port in ["", "0", "0080", "+80", "65536", "80a"] {
            let _ = refusal(&format!("http://example.com:{port}/"));
            let _ = refusal(&format!("http://[2606:4700::1111]:{port}/"));
        }
        assert!(
            Endpoint::parse("http://example.com:80/").is_ok() && Endpoint::parse("http://[2606::1]:65535/").is_ok()
        );
    }

    #[test]
    fn the_length_is_capped() {
        let url = |bytes: usize| format!("http://example.com/{}", "a".repeat(bytes - "http://example.com/".len()));
        assert!(Endpoint::parse(&url(MAX_TARGET_URL_BYTES)).is_ok());
        assert!(refusal(&url(MAX_TARGET_URL_BYTES + 1)).contains("2049 bytes"));
    }

    #[test]
    fn debug_shows_no_path_and_no_query() {
        let target = Target::new("https://example.com/services/T0/hunter2?token=hunter2");
        assert_eq!(format!("{target:?}"), "Target(example.com:443)");
    }

    #[test]
    fn a_request_is_made_of_the_urls_pieces() {
        for (url, origin, host, path) in [
            ("https://Example.com", "https://example.com:443", "example.com", "/"),
            ("https://example.com:443/a?b=c", "https://example.com:443", "example.com", "/a?b=c"),
            ("http://example.com?b", "http://example.com:80", "example.com", "/?b"),
            ("http://[2606:4700::1111]:8080/%20", "http://[2606:4700::1111]:8080", "[2606:4700::1111]:8080", "/%20"),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!((&*endpoint.origin, endpoint.uri.to_string().as_str()), (origin, path), "{url}");
            assert_eq!(endpoint.host_header, host, "{url}");
            assert_eq!(format!("{}:{}", endpoint.host(), endpoint.port), endpoint.authority(), "{url}");
        }
    }

    #[test]
    fn local_names_are_known_whatever_their_case() {
        assert!(is_local_name("LocalHost") && is_local_name("a.b.localhost"));
        assert!(!is_local_name("notlocalhost") && !is_local_name("localhost.example") && !is_local_name("host"));
    }
}
