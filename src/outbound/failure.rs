//! Says for people why an attempt got no answer. Never a secret, never more of the URL than host and port: the errors
//! of the HTTP client carry the whole of it and are not shown as they are.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use super::resolver::ResolveError;
use super::target::Endpoint;

/// How far the attempt had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No head of an answer yet.
    Waiting,
    /// The head is there, the body is being read.
    Reading,
}

pub(super) fn timed_out(timeout: Duration, phase: Phase) -> String {
    let (timeout_ms, doing) = (timeout.as_millis(), phase.doing());
    format!("timed out after {timeout_ms} ms {doing}")
}

/// The error's class in a sentence.
pub(super) fn describe(error: &reqwest::Error, endpoint: &Endpoint, connect_timeout: Duration, phase: Phase) -> String {
    let at = endpoint.authority();
    if let Some(error) = find::<ResolveError>(error) {
        return match error {
            ResolveError::Refused(refused) => format!("refused: {refused}"),
            other => format!("the host name {} could not be resolved: {other}", endpoint.host()),
        };
    }
    if let Some(error) = find::<rustls::Error>(error) {
        return format!("TLS with {at} failed: {}", describe_tls(error));
    }
    if error.is_connect() && error.is_timeout() {
        return format!("could not connect to {at} within {} ms", connect_timeout.as_millis());
    }
    if let Some(error) = find::<io::Error>(error) {
        return describe_io(error.kind(), error.raw_os_error(), &at, phase);
    }
    match find::<hyper::Error>(error) {
        Some(error) if error.is_parse() => format!("{at} answered with something that is not HTTP"),
        Some(error) if error.is_incomplete_message() => closed(&at, phase),
        _ if error.is_connect() => format!("could not connect to {at}"),
        _ => format!("the connection to {at} failed {}", phase.doing()),
    }
}

fn describe_tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            "its certificate does not lead to an authority that this system knows; complete the receiver's chain, or \
             install the authority (ca-certificates)"
                .to_owned()
        }
        other => other.to_string(),
    }
}

fn describe_io(kind: ErrorKind, code: Option<i32>, at: &str, phase: Phase) -> String {
    match kind {
        ErrorKind::ConnectionRefused => format!("connection refused: nothing listens at {at}"),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            format!("{at} reset the connection {}", phase.doing())
        }
        ErrorKind::UnexpectedEof => closed(at, phase),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => format!("there is no route to {at}"),
        ErrorKind::TimedOut => format!("the network gave up on {at} {}", phase.doing()),
        // Such as no free file descriptor or port: ours, not the receiver's.
        other => match code {
            Some(code) => format!("the connection to {at} failed {}: {other} (error {code})", phase.doing()),
            None => format!("the connection to {at} failed {}: {other}", phase.doing()),
        },
    }
}

fn closed(at: &str, phase: Phase) -> String {
    format!("{at} closed the connection {}", phase.doing())
}

impl Phase {
    fn doing(self) -> &'static str {
        match self {
            Self::Waiting => "before an answer came",
            Self::Reading => "while its answer was read",
        }
    }
}

/// The first error of this type in the chain. An `io::Error` hides the one it wraps from `source()`.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|error| error as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_wrapped_in_io_errors_is_found() {
        let tls = rustls::Error::HandshakeNotComplete;
        let wrapped = io::Error::other(io::Error::new(ErrorKind::InvalidData, tls.clone()));
        assert_eq!(find::<rustls::Error>(&wrapped), Some(&tls));
        assert_eq!(find::<ResolveError>(&wrapped), None);
    }

    #[test]
    fn our_own_lack_of_resources_is_not_blamed_on_the_receiver() {
        let text = describe_io(ErrorKind::Other, Some(24), "example.com:443", Phase::Waiting);
        assert!(text.contains("error 24"), "{text}");
    }
}
