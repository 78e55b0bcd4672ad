//! Servers for untrusted callers: anyone who reaches a port can open connections to it, but nothing more.
//!
//! A connection is one request and its answer. It is bounded in time and memory, and so are all of them together: if there is
//! no room, the newest replaces the oldest, so that a caller is never refused or left waiting because others idle. (All run on
//! one thread, and every connection that could proceed has done so before the next is accepted: what is still open waits for
//! its caller, and the oldest has had the most time.)

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{AbortHandle, Id, JoinSet};

use crate::net::http::Stream;
use crate::net::tls::Acceptor;
use crate::util::backoff::Backoff;
use crate::util::clock;

/// How long a caller may take to send its request's head. The same for a TLS handshake before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);
/// For the whole connection: a caller makes one request.
const CONNECTION_LIFE: Duration = Duration::from_secs(5);
/// hyper's minimum; requests of supervisors, etcds, balancers and Prometheus have a tenth of it.
const MAX_HEAD_BYTES: usize = 8 << 10;
const MAX_HEADERS: usize = 64;
/// The pause after a failure to accept (for example, no more descriptors), which would fail again at once; it doubles up to the
/// longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How many connections may be open at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    pub in_all: usize,
    /// From one IPv4 address, or one IPv6 network of 64 bits, which one host may have. Callers at a unix socket have none.
    pub of_one_address: usize,
}

/// The answer to a request. Behind a pointer, as [`Stream`] is: hyper's code for it exists once.
pub type Answering = Arc<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>;
/// The answer in progress.
pub type Answer = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;

/// What to listen on.
#[derive(Debug)]
pub enum Listener {
    Address(TcpListener),
    Socket(UnixListener),
}

impl Listener {
    async fn next(&self) -> io::Result<(Box<dyn Stream>, Option<IpAddr>)> {
        Ok(match self {
            Self::Address(listener) => {
                let (stream, from) = listener.accept().await?;
                (Box::new(stream), Some(network(from.ip())))
            }
            Self::Socket(listener) => (Box::new(listener.accept().await?.0), None),
        })
    }
}

/// Answers callers there, for ever. Dropping it closes every connection.
pub async fn answer(listener: Listener, room: Room, tls: Option<Acceptor>, answering: Answering) -> Infallible {
    let mut connections = JoinSet::new();
    let mut held = Held { room, open: Vec::new() };
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let accepted = tokio::select! {
            biased;
            Some(ended) = connections.join_next_with_id(), if !connections.is_empty() => {
                held.forget(ended.map_or_else(|cancelled| cancelled.id(), |(id, ())| id));
                continue;
            }
            accepted = listener.next() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                backoff.reset();
                held.make_room(from);
                let handle = connections.spawn(converse(stream, tls.clone(), answering.clone()));
                held.open.push(Open { id: handle.id(), from, handle });
                // A connection with pending input is handled before another may replace it.
                tokio::task::yield_now().await;
            }
            // The caller was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if backoff.is_fresh() {
                    log::warn!("connections can't be accepted: {error}; retrying until they can");
                }
                // Most likely there are no descriptors left.
                held.drop_oldest(|_| true);
                clock::pause(backoff.pause()).await;
            }
        }
    }
}

/// The open connections, the oldest first.
#[derive(Debug)]
struct Held {
    room: Room,
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    id: Id,
    from: Option<IpAddr>,
    handle: AbortHandle,
}

impl Held {
    /// Makes room for one more from there.
    fn make_room(&mut self, from: Option<IpAddr>) {
        let of_its_own = |open: &Open| from.is_some() && open.from == from;
        if self.open.iter().filter(|open| of_its_own(open)).count() >= self.room.of_one_address {
            self.drop_oldest(of_its_own);
        } else if self.open.len() >= self.room.in_all {
            self.drop_oldest(|_| true);
        }
    }

    fn drop_oldest(&mut self, which: impl Fn(&Open) -> bool) {
        if let Some(place) = self.open.iter().position(which) {
            self.open.remove(place).handle.abort();
        }
    }

    fn forget(&mut self, id: Id) {
        self.open.retain(|open| open.id != id);
    }
}

/// The key by which callers are counted.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        canonical => canonical,
    }
}

/// One connection from start to end. A caller that stalls or disconnects affects only itself.
pub async fn converse(stream: Box<dyn Stream>, tls: Option<Acceptor>, answering: Answering) {
    let _gone = tokio::time::timeout(CONNECTION_LIFE, async {
        let stream: Box<dyn Stream> = match tls {
            None => stream,
            Some(tls) => match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => Box::new(stream),
                Ok(Err(error)) => return log::debug!("a TLS handshake failed: {error}"),
                Err(_) => return,
            },
        };
        exchange(stream, answering).await;
    })
    .await;
}

async fn exchange(stream: Box<dyn Stream>, answering: Answering) {
    let heard = AtomicBool::new(false);
    let service = service_fn(|request| {
        heard.store(true, Ordering::Relaxed);
        let answer = answering(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    // Not hyper's own timeout, which checks the clock first: after a stall of ours, what arrived meanwhile counts.
    let in_time = tokio::time::timeout(HEAD_TIMEOUT, served.as_mut()).await;
    if in_time.is_err() && heard.load(Ordering::Relaxed) {
        _ = served.await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;
    use tokio::net::TcpStream;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// Runs beside a port that answers everybody with "yes".
    fn beside<T>(room: Room, work: impl AsyncFnOnce(SocketAddr) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let yes: Answering = Arc::new(|_| Box::pin(async { Response::new(Full::new(Bytes::from("yes"))) }));
            let listening = tokio::spawn(answer(Listener::Address(listener), room, None, yes));
            let done = tokio::time::timeout(PATIENCE, work(address)).await.expect("an end");
            listening.abort();
            done
        })
    }

    async fn idle(to: SocketAddr, from: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(to).await.unwrap()
    }

    /// What comes back until the other side ends it.
    async fn heard(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        _ = stream.read_to_end(&mut text).await;
        String::from_utf8(text).unwrap()
    }

    async fn ask(to: SocketAddr, from: &str, request: &[u8]) -> String {
        let mut stream = idle(to, from).await;
        stream.write_all(request).await.unwrap();
        heard(&mut stream).await
    }

    #[test]
    fn the_oldest_idle_connection_gives_way_and_nobody_waits() {
        beside(Room { in_all: 8, of_one_address: 4 }, async |port| {
            let mut idlers = Vec::new();
            for round in 0..5 {
                for _ in 0..20 {
                    idlers.push(idle(port, &format!("127.0.0.{}", 2 + round)).await);
                }
                assert!(ask(port, "127.0.0.1", REQUEST).await.ends_with("yes"), "round {round}");
                assert!(ask(port, &format!("127.0.0.{}", 2 + round), REQUEST).await.ends_with("yes"), "from the same");
            }
            assert_eq!(heard(&mut idlers[0]).await, "", "it gave way, without a word");
        });
    }

    /// A crowd at one address leaves those of the others alone.
    #[test]
    fn one_address_takes_no_more_than_its_share() {
        beside(Room { in_all: 8, of_one_address: 2 }, async |port| {
            let mut patient = idle(port, "127.0.0.3").await;
            patient.write_all(&REQUEST[..5]).await.unwrap();
            let mut crowd = Vec::new();
            for _ in 0..30 {
                crowd.push(idle(port, "127.0.0.2").await);
            }
            patient.write_all(&REQUEST[5..]).await.unwrap();
            assert!(heard(&mut patient).await.ends_with("yes"));
        });
    }

    #[test]
    fn a_head_is_waited_for_a_second_and_no_longer() {
        beside(Room { in_all: 8, of_one_address: 8 }, async |port| {
            let begun: Instant = clock::now();
            let mut slow = idle(port, "127.0.0.1").await;
            slow.write_all(b"GET / HT").await.unwrap();
            assert_eq!(heard(&mut slow).await, "");
            let waited = clock::now() - begun;
            assert!(waited >= HEAD_TIMEOUT && waited < CONNECTION_LIFE, "{waited:?}");
        });
    }

    #[test]
    fn a_head_without_an_end_and_headers_without_number_are_refused() {
        beside(Room { in_all: 8, of_one_address: 8 }, async |port| {
            let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD_BYTES));
            let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS + 1));
            for request in [long, many] {
                let answer = ask(port, "127.0.0.1", request.as_bytes()).await;
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
            }
            assert!(ask(port, "127.0.0.1", REQUEST).await.ends_with("yes"));
        });
    }

    #[test]
    fn a_host_is_its_ipv4_address_or_its_ipv6_network() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!([of("10.0.0.1"), of("::ffff:10.0.0.1")], ["10.0.0.1", "10.0.0.1"]);
        assert_eq!([of("2001:db8:1:2:3:4:5:6"), of("::1")], ["2001:db8:1:2::", "::"]);
    }
}
