//! `hookpost listen`: a small receiver that prints and verifies what it gets, and can fail on purpose. For people who
//! try Hookpost out or build a receiver; it listens on loopback only and keeps nothing.

mod failures;
mod report;

use std::convert::Infallible;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::outbound::signing::{PublicKey, SigningKeys, Verifier};
use failures::Failures;
use report::Report;

pub use failures::FailFirst;

/// Largest body taken: Hookpost accepts events of up to 1 MiB, so none of its deliveries is larger.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Most connections at a time; more wait to be accepted. Plenty for one terminal to follow, far from any descriptor limit.
const MAX_CONNECTIONS: usize = 256;
/// Pause after a failed accept, such as for want of a file descriptor: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The event that the printed example sends.
const SAMPLE_EVENT: &str = r#"{"order_id":123,"amount":49.99}"#;

/// Receive deliveries here: print each one, check its signatures, answer 200 or fail on purpose.
#[derive(Clone, Debug, clap::Args)]
pub struct ListenArgs {
    /// Port to listen on, on 127.0.0.1. 0 takes any free one and prints which.
    #[arg(long, default_value_t = 9000)]
    pub port: u16,
    /// The subscription's secret. With it each delivery's X-Hub-Signature-256 and webhook-signature are verified.
    #[arg(long, value_name = "SECRET")]
    pub secret: Option<SecretString>,
    /// The subscription's public key (`whpk_…`), if it signs with ed25519. With it v1a signatures are verified.
    #[arg(long, value_name = "KEY")]
    pub public_key: Option<PublicKey>,
    /// Fail the first N deliveries of each webhook-id, or `always`, to watch Hookpost retry.
    #[arg(long, value_name = "N|always", default_value = "0")]
    pub fail: FailFirst,
    /// Status that a failing delivery is answered with: try 429, 503, or 410, which disables the subscription.
    #[arg(long, value_name = "CODE", default_value_t = 500, value_parser = clap::value_parser!(u16).range(200..=599))]
    pub status: u16,
    /// Wait this long before each answer (`300ms`, `15s`). Hookpost gives up on an attempt after 10s by default.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub delay: Duration,
    /// Print one JSON object a line, for scripts.
    #[arg(long)]
    pub json: bool,
    /// Where Hookpost runs, for the example commands printed at the start.
    #[arg(long, value_name = "URL", default_value = "http://localhost:8000")]
    pub server: String,
}

/// Receives until Ctrl-C. Deliveries go to standard output, the introduction to standard error.
///
/// # Errors
/// When the port cannot be listened on.
pub async fn run(args: ListenArgs) -> anyhow::Result<()> {
    let listener = Listener::bind(&args, std::io::stdout()).await?;
    eprintln!("{}", introduction(listener.addr(), &args));
    tokio::select! {
        () = listener.serve() => Ok(()),
        stopped = tokio::signal::ctrl_c() => stopped.context("Ctrl-C cannot be waited for"),
    }
}

/// A bound receiver that writes its reports to `output`.
pub struct Listener {
    socket: TcpListener,
    addr: SocketAddr,
    receiver: Arc<Receiver>,
}

struct Receiver {
    verifier: Verifier,
    failures: Failures,
    delay: Duration,
    json: bool,
    clock: Clock,
    output: Mutex<Box<dyn Write + Send>>,
}

impl Listener {
    /// Binds the port.
    ///
    /// # Errors
    /// When it cannot be had; the error says what to do.
    pub async fn bind(args: &ListenArgs, output: impl Write + Send + 'static) -> anyhow::Result<Self> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
        let socket = TcpListener::bind(wanted)
            .await
            .with_context(|| format!("cannot listen on {wanted}; choose another with --port, or 0 for any free one"))?;
        let receiver = Receiver {
            verifier: Verifier::new(args.secret.as_ref(), args.public_key.clone()),
            failures: Failures::new(args.fail, StatusCode::from_u16(args.status).context("--status")?),
            delay: args.delay,
            json: args.json,
            clock: Clock::start(),
            output: Mutex::new(Box::new(output)),
        };
        Ok(Self { addr: socket.local_addr()?, socket, receiver: Arc::new(receiver) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Receives until it is dropped.
    pub async fn serve(self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // The semaphore is never closed.
        while let Ok(place) = places.clone().acquire_owned().await {
            let Ok((stream, _)) = self.socket.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let receiver = self.receiver.clone();
            tokio::spawn(async move {
                serve_connection(stream, receiver).await;
                drop(place);
            });
        }
    }
}

async fn serve_connection(stream: TcpStream, receiver: Arc<Receiver>) {
    let service = service_fn(move |request| {
        let receiver = receiver.clone();
        async move { Ok::<_, Infallible>(receiver.receive(request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // The other side going away is its own business.
    let _ = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

impl Receiver {
    async fn receive(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "deliveries are sent here with POST\n");
        }
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
            return answer(StatusCode::PAYLOAD_TOO_LARGE, "the body was cut off, or is larger than any delivery\n");
        };
        let mut report = Report::new(&head.headers, &body.to_bytes(), &self.verifier, self.clock.wall());
        let failing = self.failures.next(report.webhook_id.as_deref().unwrap_or_default());
        let status = failing.unwrap_or(StatusCode::OK);
        report.answered = status.as_u16();
        self.print(&report);
        tokio::time::sleep(self.delay).await;
        answer(status, if failing.is_some() { "failing on purpose (--fail)\n" } else { "received\n" })
    }

    /// Before the answer, so that a delivery whose sender gives up is shown too.
    fn print(&self, report: &Report) {
        let text = if self.json { report.json() } else { report.text() };
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader that went away has seen enough.
        let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    }
}

fn answer(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

/// What to type to see a delivery arrive. The secret is repeated: it was given on this very terminal.
fn introduction(addr: SocketAddr, args: &ListenArgs) -> String {
    let server = args.server.trim_end_matches('/');
    let mut subscription = serde_json::json!({ "target_url": format!("http://{addr}/") });
    let mut signature = String::new();
    if let Some(secret) = &args.secret {
        subscription["secret"] = secret.expose_secret().into();
        let signed = SigningKeys::of_secret(secret).hub_signature(SAMPLE_EVENT.as_bytes()).unwrap_or_default();
        signature = format!(" -H 'X-Hub-Signature-256: {signed}'");
    }
    // What a shell needs to see a single quote inside single quotes.
    let subscription = subscription.to_string().replace('\'', r"'\''");
    format!(
        "Listening on http://{addr}/ until Ctrl-C.\n\n\
         Create a subscription to it (Hookpost must run with --dev, which allows loopback as a target):\n  \
         curl -X POST {server}/subscriptions -H 'Content-Type: application/json' -d '{subscription}'\n\n\
         Send it an event (in place of 1, the id that was answered):\n  \
         curl -X POST {server}/ingest/1 -H 'Content-Type: application/json' -H 'event_type: order.created'{signature} \
         -d '{SAMPLE_EVENT}'\n"
    )
}

#[cfg(test)]
#[path = "listen/tests.rs"]
mod tests;
