//! Why an attempt got no whole answer: as a class for the machine, and in a sentence for people. Never a secret, never
//! more of the URL than host and port.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use super::guard::TargetRefused;
use super::resolver::ResolveError;
use crate::delivery::AttemptClass;
use crate::vault::Unopened;

/// How far the attempt had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No head of an answer yet.
    Waiting,
    /// The head is there, the body is being read.
    Reading,
}

/// What ended the attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The subscription's secret does not open; nothing was sent.
    Unsigned(Unopened),
    /// The guard refuses the target; nothing was sent.
    Refused(TargetRefused),
    /// The host name, and why it led to no address.
    Resolve(String, ResolveError),
    /// There was no connection within this time.
    ConnectTimeout(Duration),
    /// What was wrong with it.
    Tls(String),
    /// The deadline of the whole attempt, this long, passed.
    Timeout(Duration, Phase),
    /// The receiver ended the connection.
    Closed(Phase),
    /// The network, or this machine; with the system's error number.
    Io(ErrorKind, Option<i32>, Phase),
    /// The answer was none.
    NotHttp,
    /// The head of the answer was longer than is read.
    HeadTooLarge,
    /// Nothing of the above.
    Other(Phase),
}

impl From<TargetRefused> for Failure {
    fn from(refused: TargetRefused) -> Self {
        Self::Refused(refused)
    }
}

impl Failure {
    pub fn of_resolve(error: ResolveError, host: &str) -> Self {
        match error {
            ResolveError::Refused(refused) => Self::Refused(refused),
            other => Self::Resolve(host.to_owned(), other),
        }
    }

    /// rustls reports through `io::Error`.
    pub fn of_io(error: &io::Error, phase: Phase) -> Self {
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::Tls(describe_tls(error));
        }
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Closed(phase),
            // hyper's, of chunks that are none.
            ErrorKind::InvalidData | ErrorKind::InvalidInput if error.raw_os_error().is_none() => Self::NotHttp,
            kind => Self::Io(kind, error.raw_os_error(), phase),
        }
    }

    pub fn of_hyper(error: &hyper::Error, phase: Phase) -> Self {
        if let Some(error) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            return Self::of_io(error, phase);
        }
        match error {
            _ if error.is_parse_too_large() => Self::HeadTooLarge,
            _ if error.is_parse() => Self::NotHttp,
            // Canceled: it was closed before the request was written.
            _ if error.is_incomplete_message() || error.is_canceled() => Self::Closed(phase),
            _ => Self::Other(phase),
        }
    }

    pub fn class(&self) -> AttemptClass {
        match self {
            Self::Unsigned(_) => AttemptClass::Local,
            Self::Refused(_) => AttemptClass::Refused,
            Self::Resolve(..) => AttemptClass::Resolve,
            Self::ConnectTimeout(_) => AttemptClass::Connect,
            Self::Tls(_) => AttemptClass::Tls,
            Self::Timeout(..) => AttemptClass::Timeout,
            Self::Closed(_) | Self::Other(_) => AttemptClass::Reset,
            Self::NotHttp | Self::HeadTooLarge => AttemptClass::NotHttp,
            Self::Io(kind, ..) => match kind {
                ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                    AttemptClass::Connect
                }
                ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                    AttemptClass::Reset
                }
                ErrorKind::TimedOut => AttemptClass::Timeout,
                _ => AttemptClass::Local,
            },
        }
    }

    /// For people; `at` is host and port.
    pub fn describe(&self, at: &str) -> String {
        match self {
            Self::Unsigned(unopened) => format!("not sent, because it could not be signed: {unopened}"),
            Self::Refused(refused) => format!("refused: {refused}"),
            Self::Resolve(host, error) => format!("the host name {host} could not be resolved: {error}"),
            Self::ConnectTimeout(timeout) => format!("could not connect to {at} within {} ms", timeout.as_millis()),
            Self::Tls(wrong) => format!("TLS with {at} failed: {wrong}"),
            Self::Timeout(timeout, phase) => format!("timed out after {} ms {}", timeout.as_millis(), phase.doing()),
            Self::Closed(phase) => format!("{at} closed the connection {}", phase.doing()),
            Self::Io(kind, code, phase) => describe_io(*kind, *code, at, *phase),
            Self::NotHttp => format!("{at} answered with something that is not HTTP"),
            Self::HeadTooLarge => format!("{at} answered with more than 64 KiB or 100 lines of headers"),
            Self::Other(phase) => format!("the connection to {at} failed {}", phase.doing()),
        }
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
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => format!("there is no route to {at}"),
        ErrorKind::TimedOut => format!("the network gave up on {at} {}", phase.doing()),
        // Such as no free file descriptor or port: ours, not the receiver's.
        other => match code {
            Some(code) => format!("the connection to {at} failed {}: {other} (error {code})", phase.doing()),
            None => format!("the connection to {at} failed {}: {other}", phase.doing()),
        },
    }
}

impl Phase {
    fn doing(self) -> &'static str {
        match self {
            Self::Waiting => "before an answer came",
            Self::Reading => "while its answer was read",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_tls_is_found_in_the_io_error_that_carries_it() {
        let wrapped = io::Error::new(ErrorKind::InvalidData, rustls::Error::HandshakeNotComplete);
        assert_eq!(Failure::of_io(&wrapped, Phase::Waiting).class(), AttemptClass::Tls);
    }

    #[test]
    fn our_own_lack_of_resources_is_not_blamed_on_the_receiver() {
        let failure = Failure::of_io(&io::Error::from_raw_os_error(24), Phase::Waiting);
        assert_eq!(failure.class(), AttemptClass::Local);
        assert!(failure.describe("example.com:443").contains("error 24"));
    }

    #[test]
    fn broken_chunks_are_not_http() {
        let failure = Failure::of_io(&io::Error::new(ErrorKind::InvalidInput, "Invalid chunk size"), Phase::Reading);
        assert_eq!(failure, Failure::NotHttp);
    }
}
