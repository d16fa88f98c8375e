//! Names to addresses, with the guard in between: what this resolver answers is what gets dialled, at every connect, so
//! a name that is pointed elsewhere after its subscription was made (DNS rebinding) is caught here.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::guard::{TargetPolicy, TargetRefused, local_name_refused};
use super::target::{Endpoint, is_local_name};

/// Deadline of one lookup, all name servers and repetitions included. Below the connect timeout, so that a failure says
/// that it was the name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest wait for one name server, whatever the system says: leaves time to ask another.
const QUERY_TIMEOUT: Duration = Duration::from_millis(1500);
/// An answer is asked for again after this, however long its owner lets it be kept: receivers move.
const MAX_ANSWER_AGE: Duration = Duration::from_secs(300);
/// The same for the answer that there is no such name, which is the one that people correct.
const MAX_NEGATIVE_AGE: Duration = Duration::from_secs(10);
/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Why a name did not lead to an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResolveError {
    /// The guard refuses it.
    #[error(transparent)]
    Refused(#[from] TargetRefused),
    /// The name servers know no address of it.
    #[error("the name has no address")]
    NotFound,
    /// They could not be asked, or could not tell.
    #[error("the name servers gave no usable answer")]
    Unavailable,
    /// They did not answer in time.
    #[error("the name servers did not answer in time")]
    TimedOut,
}

/// Where addresses come from. A trait, so that tests can play name servers that turn on us.
#[async_trait]
pub(super) trait Lookup: Send + Sync + 'static {
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// The addresses to dial for an endpoint's name, in their order; the guard has judged all of them, whether they were
/// asked for just now or are remembered from before.
pub(super) async fn resolve(
    policy: &TargetPolicy,
    lookup: &dyn Lookup,
    endpoint: &Endpoint,
) -> Result<Vec<IpAddr>, ResolveError> {
    let name = endpoint.host();
    if is_local_name(name) {
        let addresses = policy.loopback();
        return if addresses.is_empty() { Err(local_name_refused(name).into()) } else { Ok(addresses) };
    }
    let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, lookup.addresses(name));
    let mut addresses = lookup.await.map_err(|_| ResolveError::TimedOut)??;
    if addresses.is_empty() {
        return Err(ResolveError::NotFound);
    }
    policy.check_answer(endpoint, &addresses)?;
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
}

/// The hosts file, and the name servers of the system or those that an operator named.
#[derive(Default)]
pub(super) struct Dns {
    named: Option<ResolverConfig>,
    resolver: OnceLock<TokioResolver>,
}

impl Dns {
    /// With these name servers; none means the system's.
    pub fn asking(servers: &[SocketAddr]) -> Self {
        let named =
            (!servers.is_empty()).then(|| ResolverConfig::from_name_servers(servers.iter().map(name_server).collect()));
        Self { named, resolver: OnceLock::new() }
    }

    /// A system without a resolver configuration, as in a bare container, still has its hosts file. It is not kept: the
    /// configuration may come with the network, after us.
    fn resolver(&self) -> Result<TokioResolver, ResolveError> {
        if let Some(resolver) = self.resolver.get() {
            return Ok(resolver.clone());
        }
        match configured(self.named.as_ref()) {
            Ok(resolver) => Ok(self.resolver.get_or_init(|| resolver).clone()),
            Err(error) => {
                tracing::warn!(%error, "the system's resolver configuration cannot be read; using the hosts file alone");
                hosts_alone().map_err(|_| ResolveError::Unavailable)
            }
        }
    }
}

#[async_trait]
impl Lookup for Dns {
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        match self.resolver()?.lookup_ip(name).await {
            Ok(answer) => Ok(answer.iter().collect()),
            Err(error) if error.is_no_records_found() => Err(ResolveError::NotFound),
            Err(NetError::Timeout) => Err(ResolveError::TimedOut),
            Err(error) => {
                tracing::debug!(%error, "a name could not be looked up");
                Err(ResolveError::Unavailable)
            }
        }
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    server.connections.iter_mut().for_each(|connection| connection.port = address.port());
    server
}

fn configured(named: Option<&ResolverConfig>) -> Result<TokioResolver, NetError> {
    let mut builder = match named {
        Some(servers) => TokioResolver::builder_with_config(servers.clone(), TokioRuntimeProvider::default()),
        None => TokioResolver::builder_tokio()?,
    };
    let options = builder.options_mut();
    options.timeout = options.timeout.min(QUERY_TIMEOUT);
    options.positive_max_ttl = Some(MAX_ANSWER_AGE);
    options.negative_max_ttl = Some(MAX_NEGATIVE_AGE);
    builder.build()
}

fn hosts_alone() -> Result<TokioResolver, NetError> {
    let nobody = ResolverConfig::from_name_servers(Vec::new());
    TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default()).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name servers that answer this.
    struct Answers(Result<Vec<IpAddr>, ResolveError>);

    #[async_trait]
    impl Lookup for Answers {
        async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
            self.0.clone()
        }
    }

    /// Name servers that never answer.
    struct Silence;

    #[async_trait]
    impl Lookup for Silence {
        async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
            std::future::pending().await
        }
    }

    fn answers(addresses: &[&str]) -> Answers {
        Answers(Ok(addresses.iter().map(|address| address.parse().unwrap()).collect()))
    }

    fn at(host: &str) -> Endpoint {
        Endpoint::parse(&format!("http://{host}/")).unwrap()
    }

    fn loopback_allowed() -> TargetPolicy {
        TargetPolicy::new(vec!["127.0.0.0/8".parse().unwrap()])
    }

    #[tokio::test]
    async fn public_answers_are_passed_on() {
        let found =
            resolve(&TargetPolicy::default(), &answers(&["9.9.9.9", "2606:4700::1111"]), &at("example.com")).await;
        assert_eq!(found.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn one_private_address_refuses_the_whole_answer() {
        for answer in [&["9.9.9.9", "10.0.0.1"][..], &["::ffff:169.254.169.254"], &["2606:4700::1111", "::1"]] {
            let found = resolve(&TargetPolicy::default(), &answers(answer), &at("example.com")).await;
            assert!(matches!(found, Err(ResolveError::Refused(_))), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn the_name_servers_are_not_asked_for_localhost() {
        let found = resolve(&loopback_allowed(), &answers(&["9.9.9.9"]), &at("localhost")).await;
        assert_eq!(found, Ok(vec!["127.0.0.1".parse().unwrap()]));
        let found = resolve(&TargetPolicy::default(), &answers(&["9.9.9.9"]), &at("a.localhost")).await;
        assert!(matches!(found, Err(ResolveError::Refused(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn silent_name_servers_are_given_up_on() {
        let found = resolve(&TargetPolicy::default(), &Silence, &at("example.com")).await;
        assert_eq!(found, Err(ResolveError::TimedOut));
    }

    #[tokio::test]
    async fn an_empty_answer_is_no_address() {
        assert_eq!(
            resolve(&TargetPolicy::default(), &answers(&[]), &at("a.example")).await,
            Err(ResolveError::NotFound)
        );
    }

    /// Answers questions for an IPv4 address with 192.0.2.7, and all others with nothing.
    async fn play_name_server(socket: tokio::net::UdpSocket) {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            let name = question[12..length].iter().position(|byte| *byte == 0).unwrap();
            let (end, wants_v4) = (12 + name + 5, question[12 + name + 1..][..2] == [0, 1]);
            let mut answer = question[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(wants_v4), 0, 0, 0, 0]);
            if wants_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 192, 0, 2, 7]);
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn named_name_servers_are_asked_at_their_port() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns = Dns::asking(&[socket.local_addr().unwrap()]);
        tokio::spawn(play_name_server(socket));
        assert_eq!(dns.addresses("receiver.test").await, Ok(vec!["192.0.2.7".parse().unwrap()]));
    }

    #[tokio::test]
    async fn without_name_servers_a_lookup_fails_and_nothing_else_does() {
        assert!(hosts_alone().unwrap().lookup_ip("no-such-host.invalid").await.is_err());
    }
}
