//! From an endpoint to an open connection: resolve, dial, agree on TLS, all by one deadline.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::connection::{Connection, Stream};
use super::failure::{Failure, Phase};
use super::guard::TargetPolicy;
use super::resolver::{Lookup, resolve};
use super::target::Endpoint;

/// The network of a simulation.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Connects to whoever is at this address.
    async fn dial(&self, to: SocketAddr) -> io::Result<DuplexStream>;
}

/// Opens connections where the policy allows.
pub(super) struct Connector {
    policy: Arc<TargetPolicy>,
    lookup: Box<dyn Lookup>,
    tls: TlsConnector,
    timeout: Duration,
    /// In place of the network.
    simulated: Option<Arc<dyn Dial>>,
}

impl Connector {
    /// `timeout` is for all of it, TLS included.
    pub fn new(policy: Arc<TargetPolicy>, lookup: impl Lookup, tls: ClientConfig, timeout: Duration) -> Self {
        Self { policy, lookup: Box::new(lookup), tls: Arc::new(tls).into(), timeout, simulated: None }
    }

    /// The same over this network; `http` only.
    pub fn over(self, network: Arc<dyn Dial>) -> Self {
        Self { simulated: Some(network), ..self }
    }

    /// A connection to the endpoint, which has been judged already as it is written.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Box<Connection>, Failure> {
        let deadline = Instant::now() + self.timeout;
        let connecting = timeout_at(deadline, self.open(endpoint, deadline));
        let stream = connecting.await.unwrap_or(Err(Failure::ConnectTimeout(self.timeout)))?;
        Connection::new(stream).await.map_err(|error| Failure::of_hyper(&error, Phase::Waiting))
    }

    async fn open(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Stream, Failure> {
        let addresses = match endpoint.literal {
            Some(address) => vec![address],
            None => resolve(&self.policy, &*self.lookup, endpoint)
                .await
                .map_err(|error| Failure::of_resolve(error, endpoint.host()))?,
        };
        if let (Some(network), Some(address)) = (&self.simulated, addresses.first()) {
            let dialled = network.dial(SocketAddr::new(*address, endpoint.port)).await;
            return dialled.map(Stream::Piped).map_err(|error| Failure::of_io(&error, Phase::Waiting));
        }
        let stream = self.dial(&addresses, endpoint.port, deadline).await?;
        // A delivery is written at once: there is nothing to wait for.
        stream.set_nodelay(true).map_err(|error| Failure::of_io(&error, Phase::Waiting))?;
        if !endpoint.tls {
            return Ok(Stream::Plain(stream));
        }
        let name = server_name(endpoint)?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| Failure::of_io(&error, Phase::Waiting))?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Tries the addresses in their order; the failure of the last is told.
    async fn dial(&self, addresses: &[IpAddr], port: u16, deadline: Instant) -> Result<TcpStream, Failure> {
        let mut failure = Failure::ConnectTimeout(self.timeout);
        for (tried, address) in addresses.iter().enumerate() {
            let share = share(deadline.saturating_duration_since(Instant::now()), addresses.len() - tried);
            let dialled = TcpStream::connect(SocketAddr::new(*address, port));
            failure = match timeout_at(Instant::now() + share, dialled).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => Failure::of_io(&error, Phase::Waiting),
                Err(_) => Failure::ConnectTimeout(self.timeout),
            };
        }
        Err(failure)
    }
}

/// What the next of the `left` addresses may take of the time: an address that does not answer leaves the others theirs.
fn share(time: Duration, left: usize) -> Duration {
    time / u32::try_from(left).unwrap_or(u32::MAX).max(1)
}

/// Whom the certificate must be for: the name, or the address itself.
fn server_name(endpoint: &Endpoint) -> Result<ServerName<'static>, Failure> {
    match endpoint.literal {
        Some(address) => Ok(ServerName::IpAddress(address.into())),
        None => ServerName::try_from(endpoint.host().to_owned())
            .map_err(|_| Failure::Tls("no certificate can be for this host name".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::net::TcpSocket;

    use super::super::resolver::ResolveError;
    use super::super::test_receiver::{Behaviour, Canary, Receiver};
    use super::super::tls;
    use super::*;

    /// A name server that knows these addresses.
    struct Knows(&'static [&'static str]);

    #[async_trait]
    impl Lookup for Knows {
        async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
            Ok(self.0.iter().map(|address| address.parse().unwrap()).collect())
        }
    }

    async fn connect(addresses: &'static [&'static str], port: u16, timeout: Duration) -> Result<(), Failure> {
        let policy = Arc::new(TargetPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]));
        let endpoint = Endpoint::parse(&format!("http://hooks.example:{port}/")).unwrap();
        Connector::new(policy, Knows(addresses), tls::config(), timeout).connect(&endpoint).await.map(drop)
    }

    #[tokio::test]
    async fn the_next_address_is_tried_where_nothing_listens() {
        let receiver = Receiver::start(Behaviour::Hang).await;
        let port = receiver.addr.port();
        assert!(connect(&["127.0.0.2", "127.0.0.1"], port, Duration::from_secs(10)).await.is_ok());
        let failure = connect(&["127.0.0.2", "127.0.0.3"], port, Duration::from_secs(10)).await.unwrap_err();
        assert!(failure.describe("it").contains("connection refused"), "{failure:?}");
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_leaves_time_for_the_next() {
        let receiver = Receiver::start(Behaviour::Hang).await;
        let port = receiver.addr.port();
        // With its queue full the kernel answers no one.
        let full = TcpSocket::new_v4().unwrap();
        full.bind(SocketAddr::new("127.0.0.2".parse().unwrap(), port)).unwrap();
        let full = full.listen(0).unwrap();
        let _first = TcpStream::connect(full.local_addr().unwrap()).await.unwrap();
        let timeout = Duration::from_millis(800);
        assert!(connect(&["127.0.0.2", "127.0.0.1"], port, timeout).await.is_ok());
        let failure = connect(&["127.0.0.2"], port, timeout).await.unwrap_err();
        assert!(matches!(failure, Failure::ConnectTimeout(_)), "{failure:?}");
    }

    #[tokio::test]
    async fn no_address_is_dialled_when_one_of_them_is_refused() {
        let canary = Canary::start();
        let failure = connect(&["127.0.0.1", "10.0.0.1"], canary.addr().port(), Duration::from_secs(10)).await;
        assert!(matches!(failure, Err(Failure::Refused(_))));
        assert!(!canary.was_hit());
    }

    #[test]
    fn the_last_address_has_all_the_time_that_is_left() {
        let time = Duration::from_secs(4);
        assert_eq!((share(time, 4), share(time, 1)), (Duration::from_secs(1), time));
    }
}
