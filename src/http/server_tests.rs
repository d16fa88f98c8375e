//! The accept loop over real sockets. Where a limit must pass, it is a small one, and the test waits for what follows.

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const HOLD: &str = "GET /hold HTTP/1.1\r\nhost: a\r\n\r\n";
/// Long enough that nothing is cut that should not be.
const LONG: Duration = Duration::from_secs(3600);
const PATIENT: ServerLimits = ServerLimits { connections: 10, streams: 10, header_timeout: LONG, idle_timeout: LONG };

struct Server {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    /// Notified when a request for `/hold` has come in, and lets it go on.
    held: Arc<(Notify, Notify)>,
}

impl Server {
    async fn start(limits: ServerLimits, drain: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let held = Arc::new((Notify::new(), Notify::new()));
        let gate = held.clone();
        let service = service_fn(move |request: Request<Incoming>| respond(gate.clone(), request));
        let stopped = async move { stopped.await.unwrap() };
        let serving = tokio::spawn(async move { run(listener, service, limits, stopped, drain).await });
        Self { addr, stop: Some(stop), serving, held }
    }

    async fn connect(&self, sent: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        stream
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

/// Answers with the peer's address; on `/hold`, when it is let go.
async fn respond(gate: Arc<(Notify, Notify)>, request: Request<Incoming>) -> Result<Response, Infallible> {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_string()).unwrap_or_default();
    if request.uri().path() == "/hold" {
        gate.0.notify_one();
        gate.1.notified().await;
    }
    let _ = request.into_body().collect().await;
    Ok(Response::new(peer.into()))
}

/// Everything until the server closes. A reset is an end too.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    String::from_utf8_lossy(&read).into_owned()
}

/// One answer, whose body is the client's own address.
async fn read_answer(stream: &mut TcpStream) -> String {
    let own = stream.local_addr().unwrap().to_string();
    let mut read = String::new();
    while !read.ends_with(&own) {
        let mut part = [0; 1024];
        let size = stream.read(&mut part).await.unwrap();
        assert_ne!(size, 0, "closed after {read:?}");
        read.push_str(std::str::from_utf8(&part[..size]).unwrap());
    }
    read
}

#[tokio::test]
async fn requests_carry_the_peers_address_and_share_a_connection() {
    let server = Server::start(PATIENT, LONG).await;
    let mut stream = server.connect(GET).await;
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    stream.write_all(GET.as_bytes()).await.unwrap();
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_head_that_does_not_come_is_given_up() {
    let limits = ServerLimits { header_timeout: Duration::from_millis(50), ..PATIENT };
    let server = Server::start(limits, LONG).await;
    // The second and third look like the start of HTTP/2, which hyper waits for without a timer.
    for begun in ["", "P", "PRI * HTTP/2.0\r\n", "POST / HTTP/1.1\r\nx-slow: "] {
        let mut stream = server.connect(begun).await;
        assert!(!read_to_end(&mut stream).await.contains(" 200 "), "{begun:?}");
    }
}

#[tokio::test]
async fn a_slow_loris_is_cut_off_at_the_deadline_however_it_drips() {
    let brief = Duration::from_millis(50);
    let server = Server::start(ServerLimits { header_timeout: brief, idle_timeout: brief, ..PATIENT }, LONG).await;
    // Over HTTP/2, a head that goes on in further frames.
    let mut unfinished = http_2_request(&[]);
    unfinished.truncate(24 + 9 + 9);
    for (begun, drop) in [
        (b"POST / HTTP/1.1\r\nx-slow: ".to_vec(), b"a".as_slice()),
        (format!("{GET}POST / HTTP/1.1\r\n").into_bytes(), b"x: y\r\n"),
        (unfinished, b"\0"),
    ] {
        let (mut reading, mut writing) = TcpStream::connect(server.addr).await.unwrap().into_split();
        writing.write_all(&begun).await.unwrap();
        let dripping = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            while writing.write_all(drop).await.is_ok() {
                tick.tick().await;
            }
        });
        let _ = reading.read_to_end(&mut Vec::new()).await;
        dripping.await.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_is_worked_on_is_not_idle() {
    let brief = Duration::from_millis(20);
    let server = Server::start(ServerLimits { header_timeout: brief, idle_timeout: brief, ..PATIENT }, LONG).await;
    let mut stream = server.connect(HOLD).await;
    server.held.0.notified().await;
    // Another connection that is cut twice shows that the limits have passed.
    for _ in 0..2 {
        read_to_end(&mut server.connect("P").await).await;
    }
    server.held.1.notify_one();
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn connections_over_the_cap_wait_for_a_place() {
    let server = Server::start(ServerLimits { connections: 1, ..PATIENT }, LONG).await;
    let mut first = server.connect(GET).await;
    read_answer(&mut first).await;
    let mut second = server.connect(HOLD).await;
    // The first is served while the second waits: it is not even accepted.
    first.write_all(GET.as_bytes()).await.unwrap();
    read_answer(&mut first).await;
    assert!(futures_util::poll!(pin!(server.held.0.notified())).is_pending());
    drop(first);
    server.held.0.notified().await;
    server.held.1.notify_one();
    read_answer(&mut second).await;
}

#[tokio::test]
async fn streams_of_http_2_over_the_cap_are_refused_at_once_and_take_no_place_from_http_1() {
    // Of HPACK's static table; a status that is not in it is written out behind the index of its name.
    const OK: u8 = 0x88;
    const WRITTEN_OUT: u8 = 0x48;
    let server = Server::start(ServerLimits { streams: 0, ..PATIENT }, LONG).await;
    assert_eq!(http_2_answer(&server, &[]).await, WRITTEN_OUT, "503");
    assert!(read_answer(&mut server.connect(GET).await).await.contains(" 200 "));
    let server = Server::start(ServerLimits { streams: 1, ..PATIENT }, LONG).await;
    for _ in 0..2 {
        assert_eq!(http_2_answer(&server, &[]).await, OK, "the place is given back");
    }
}

#[tokio::test]
async fn a_stop_lets_the_request_under_way_end_and_takes_no_other() {
    let mut server = Server::start(PATIENT, LONG).await;
    let mut idle = server.connect(GET).await;
    read_answer(&mut idle).await;
    let mut held = server.connect(HOLD).await;
    server.held.0.notified().await;
    server.stop();
    assert_eq!(read_to_end(&mut idle).await, "", "an idle connection is closed at once");
    server.held.1.notify_one();
    assert!(read_to_end(&mut held).await.starts_with("HTTP/1.1 200"));
    server.serving.await.unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn a_stop_has_a_deadline() {
    let mut server = Server::start(PATIENT, Duration::from_millis(20)).await;
    let mut held = server.connect(HOLD).await;
    server.held.0.notified().await;
    server.stop();
    server.serving.await.unwrap();
    assert_eq!(read_to_end(&mut held).await, "");
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let server = Server::start(PATIENT, LONG).await;
    let request = "POST / HTTP/1.1\r\nhost: a\r\norigin: https://b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert!(read_to_end(&mut server.connect(request).await).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn a_request_whose_length_is_ambiguous_is_refused() {
    let server = Server::start(PATIENT, LONG).await;
    for lengths in [
        "content-length: 1\r\ncontent-length: 2",
        "content-length: 1\r\ncontent-length: 1",
        "content-length: +1",
        "content-length: 1, 1",
        "content-length: 60\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 60",
        "transfer-encoding: identity\r\ncontent-length: 1",
        "transfer-encoding: chunked, identity",
        "transfer-encoding : chunked",
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\n{lengths}\r\n\r\n0\r\n\r\n{GET}");
        // Also behind a request that is in order, on the same connection.
        for before in [0, 1] {
            let answer = read_to_end(&mut server.connect(&(GET.repeat(before) + &request)).await).await;
            let (ordinary, refused) = (answer.matches("HTTP/1.1 200").count(), answer.matches("HTTP/1.1 400").count());
            assert_eq!((ordinary, refused), (before, 1), "{lengths}: {answer}");
        }
    }
}

#[tokio::test]
async fn nothing_is_smuggled_behind_a_chunked_body() {
    let server = Server::start(PATIENT, LONG).await;
    let request = format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{GET}");
    let answer = read_to_end(&mut server.connect(&request).await).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

/// Frames of HTTP/2, by hand: no client library sends such requests. A POST with these headers and the body `x`.
fn http_2_request(headers: &[(&str, &str)]) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0, length[0], length[1], kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let literal = |(name, value): &(&str, &str)| {
        let length = |text: &str| u8::try_from(text.len()).unwrap();
        [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
    };
    let block: Vec<u8> = pseudo.iter().chain(headers).flat_map(literal).collect();
    let (settings, head, body) = (frame(4, 0, 0, b""), frame(1, 0x4, 1, &block), frame(0, 0x1, 1, b"x"));
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings, head, body].concat()
}

/// What became of it: the first byte of the answer's head, or 0 when the stream or the connection was ended.
async fn http_2_answer(server: &Server, headers: &[(&str, &str)]) -> u8 {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&http_2_request(headers)).await.unwrap();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return 0;
        }
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut payload).await.unwrap();
        match head[3] {
            1 => return payload[0],
            3 | 7 => return 0,
            _ => {}
        }
    }
}

#[tokio::test]
async fn over_http_2_lengths_cannot_be_ambiguous_either() {
    /// As HPACK writes them (RFC 7541, appendix A).
    const STATUS: [u8; 2] = [0x88, 0x8c];
    let server = Server::start(PATIENT, LONG).await;
    for ordinary in [&[][..], &[("content-length", "1")]] {
        assert_eq!(http_2_answer(&server, ordinary).await, STATUS[0], "{ordinary:?}");
    }
    assert_eq!(http_2_answer(&server, &[("content-length", "1"), ("content-length", "1")]).await, STATUS[1]);
    for headers in [
        &[("content-length", "1"), ("content-length", "2")][..],
        &[("content-length", "2")],
        &[("content-length", "+1")],
        &[("transfer-encoding", "chunked")],
        &[("connection", "close")],
        &[("te", "gzip")],
        &[("Host", "a")],
    ] {
        assert_eq!(http_2_answer(&server, headers).await, 0, "{headers:?}");
    }
}

#[tokio::test]
async fn more_headers_than_the_limit_are_refused() {
    let server = Server::start(PATIENT, LONG).await;
    let many = "x: y\r\n".repeat(MAX_HEADERS + 1);
    let answer = read_to_end(&mut server.connect(&format!("GET / HTTP/1.1\r\n{many}\r\n")).await).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}
