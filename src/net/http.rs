//! One bounded HTTP/1.1 exchange, with failures told apart by what they prove.
//!
//! A connection per exchange: this program makes at most a few requests a minute, and a pool would outlive the peers it points
//! at.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{EXPECT, HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, oneshot};

use crate::net::http2;
use crate::net::proxy::Proxy;
use crate::net::tls::{self, Trust};
use crate::util::clock;
use crate::util::file;
use crate::util::file_stream::{Pieces, Progress};
use crate::util::words;

/// The longest body that `fetch` accepts: a member list of hundreds of members is below 1 MiB.
const MAX_BODY_BYTES: usize = 4 << 20;

/// How long a proxy may take to connect: less than the shortest deadline of a call through one (5 s), so that the error can
/// name the proxy.
const PROXY_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a body waits for "100 Continue" before it is sent in any case: a server may not know of it (RFC 9110, section
/// 10.1.1; AWS's SDKs wait as long).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection stays after an answer that came before the whole file went: the answer's document must be read.
const LINGER: Duration = Duration::from_secs(5);

/// What is spoken on a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// A request with its body in memory.
pub type Outgoing = Request<Full<Bytes>>;

/// A connection of any kind. Behind a pointer, so that hyper is compiled once and not for each kind: its code is most of what a
/// supervisor at rest has in memory.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A request's body: one type, so that hyper is compiled once.
enum Payload {
    Whole(Full<Bytes>),
    File(FileBody),
}

/// A file that is sent as it is read.
struct FileBody {
    pieces: Pieces,
    /// Ends when the server wants the body, or has had the time to say that it does not.
    gate: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Signalled for each piece that hyper took.
    taken: Arc<Notify>,
    /// Closed when there is an answer.
    answered: oneshot::Receiver<Infallible>,
    /// From the answer on: what has not gone by its end will not go. hyper itself would send it all to a server that refused it.
    linger: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::File(body) => {
                if body.linger.is_none() && Pin::new(&mut body.answered).poll(cx).is_ready() {
                    body.linger = Some(Box::pin(clock::pause(LINGER)));
                }
                if let Some(linger) = &mut body.linger {
                    if linger.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Some(Err(io::Error::other("it was answered before all of it was sent"))));
                    }
                    if body.gate.is_some() {
                        return Poll::Pending;
                    }
                }
                if let Some(gate) = &mut body.gate {
                    ready!(gate.as_mut().poll(cx));
                    body.gate = None;
                }
                let piece = ready!(body.pieces.poll_next(cx));
                body.taken.notify_one();
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::File(body) => body.pieces.left() == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::File(body) => SizeHint::with_exact(body.pieces.left()),
        }
    }
}

/// Why an exchange gave no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The host is up and nothing listens.
    #[error("connection refused")]
    Refused,
    /// No name, or no route.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Something accepted the connection and closed it without an answer: what etcd's TLS port does with plain HTTP.
    #[error("the connection was closed without an answer: {0}")]
    Closed(String),
    /// No answer within the deadline.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// Neither a byte of the body was taken nor an answer given for that long.
    #[error("no progress for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The file that is the request's body can't be read: nothing of it is the other side's fault.
    #[error("the file to be sent can't be read: {0}")]
    File(String),
    /// The other side does not speak HTTP as expected.
    #[error("not the expected HTTP: {0}")]
    Protocol(String),
}

/// A failed exchange: the URL, shown without its secrets, and the reason.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {failure}", words::without_secrets(url))]
pub struct Error {
    pub url: String,
    #[source]
    pub failure: Failure,
}

/// Makes exchanges with one set of TLS settings.
#[derive(Clone, Debug)]
pub struct Client {
    trust: Trust,
    proxy: Option<Proxy>,
    /// Where every connection goes, whatever host a URL names.
    socket: Option<PathBuf>,
}

impl Client {
    /// A client with these TLS settings for `https`, which connects directly.
    pub fn new(trust: Trust) -> Self {
        Self { trust, proxy: None, socket: None }
    }

    /// The same, through a proxy if that applies to the URL's host.
    pub fn through(self, proxy: Option<Proxy>) -> Self {
        Self { proxy, ..self }
    }

    /// A client that reaches only the listener at this unix socket, for `http` URLs of any host.
    pub fn at(socket: PathBuf) -> Self {
        let nobody = Trust::new(tls::Believed::Anybody, None, tls::Names::default());
        Self { trust: nobody, proxy: None, socket: Some(socket) }
    }

    /// Sends the request and reads the whole answer, all within the deadline.
    ///
    /// # Errors
    /// There was no answer; the error has the URL. An HTTP error status is an answer, not an error.
    pub async fn fetch(&self, request: Outgoing, within: Duration) -> Result<Response<Bytes>, Error> {
        let url = request.uri().to_string();
        let request = request.map(Payload::Whole);
        bounded(async { read_whole(self.exchange(request).await?).await }, url, within).await
    }

    /// Sends the request and returns as soon as the head of the answer has arrived; the body is read as it comes.
    ///
    /// # Errors
    /// As [`Client::fetch`]; the deadline covers the head only.
    pub async fn open(&self, request: Outgoing, within: Duration) -> Result<Response<Incoming>, Error> {
        let url = request.uri().to_string();
        bounded(self.exchange(request.map(Payload::Whole)), url, within).await
    }

    /// Posts to a URL over HTTP/2 and returns as soon as the head of the answer has arrived. Without TLS the server must know that it is spoken
    /// (RFC 9113, section 3.3, "prior knowledge"), with it the server is asked (ALPN).
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn post_http2(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        within: Duration,
    ) -> Result<http2::Answer, Error> {
        let exchange = async {
            let uri: Uri = url.parse().map_err(|e| Failure::Protocol(format!("is not a URL: {e}")))?;
            let authority = host_header(&uri)?;
            let request = http2::Post {
                scheme: uri.scheme_str().unwrap_or_default(),
                authority: authority.to_str().unwrap_or_default(),
                path: uri.path(),
                headers,
                body,
            };
            http2::post(self.reach(&uri, Version::Http2).await?, &request).await
        };
        bounded(exchange, url.to_owned(), within).await
    }

    /// Sends a file as the request's body, and returns as soon as the head of the answer has arrived. The server is asked first
    /// whether it wants the body (`Expect: 100-continue`). It may take as long as it makes progress.
    ///
    /// # Errors
    /// As [`Client::open`]; and there was no progress for `stall`, or the file can't be read.
    pub async fn send_file(
        &self,
        request: Request<()>,
        pieces: Pieces,
        stall: Duration,
        progress: Progress<'_>,
    ) -> Result<Response<Incoming>, Error> {
        let url = request.uri().to_string();
        let (length, left, taken) = (pieces.left(), pieces.watch(), Arc::<Notify>::default());
        let wanted = Arc::<Notify>::default();
        let go = wanted.clone();
        let gate = async move { _ = tokio::time::timeout(CONTINUE_TIMEOUT, go.notified()).await };
        // Dropped with the return from here.
        let (_waits, answered) = oneshot::channel();
        let body = FileBody { pieces, gate: Some(Box::pin(gate)), taken: taken.clone(), answered, linger: None };
        let mut request = request.map(|()| Payload::File(body));
        if length > 0 {
            request.headers_mut().insert(EXPECT, HeaderValue::from_static("100-continue"));
        }
        hyper::ext::on_informational(&mut request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                wanted.notify_one();
            }
        });
        let mut exchange = std::pin::pin!(self.exchange(request));
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut exchange => break outcome,
                () = taken.notified() => progress(length - left.left()),
                () = clock::pause(stall) => break Err(match left.waits_for_file() {
                    true => Failure::File(file::mute(stall).to_string()),
                    false => Failure::Stalled(stall),
                }),
            }
        };
        outcome.map_err(|failure| Error { url, failure })
    }

    async fn exchange(&self, mut request: Request<Payload>) -> Result<Response<Incoming>, Failure> {
        let uri = request.uri().clone();
        let stream = self.reach(&uri, Version::Http1).await?;
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, host_header(&uri)?);
        }
        // Origin form: what servers and the SigV4 canonical request expect.
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        *request.uri_mut() = path.parse().map_err(|e| Failure::Protocol(format!("path: {e}")))?;
        converse(stream, request).await
    }

    /// A connection to the URL's host, secured if the URL says so.
    async fn reach(&self, uri: &Uri, version: Version) -> Result<Box<dyn Stream>, Failure> {
        let (host, port, secure) = target(uri)?;
        if let Some(socket) = &self.socket {
            return Ok(Box::new(UnixStream::connect(socket).await.map_err(|e| connect_failure(&e))?));
        }
        let proxy = self.proxy.as_ref().and_then(|proxy| proxy.intercept(uri));
        let stream = match &proxy {
            Some(proxy) => tunnel(proxy, uri, port).await?,
            None => connect(&host, port).await?,
        };
        if !secure {
            return Ok(stream);
        }
        let secured = match version {
            Version::Http1 => self.trust.connect(&host, stream).await,
            Version::Http2 => self.trust.connect_for(&host, stream, "h2").await,
        };
        // The failure may be the proxy's, if it inspects TLS.
        let way = proxy.as_ref().map_or(String::new(), |proxy| format!("; through proxy {}", shown(proxy)));
        let stream = secured.map_err(|e| match handshake_failure(&e) {
            Failure::Tls(cause) => Failure::Tls(cause + &way),
            Failure::Unreachable(cause) => Failure::Unreachable(cause + &way),
            other => other,
        })?;
        Ok(Box::new(stream))
    }
}

/// Gets a path from the listener at a unix socket.
///
/// # Errors
/// There was no answer; the error has the socket's path.
pub async fn fetch_at(socket: &Path, path: &str, within: Duration) -> Result<Response<Bytes>, Error> {
    let whole = async {
        let stream = UnixStream::connect(socket).await.map_err(|e| connect_failure(&e))?;
        let request = Request::get(path).header(HOST, "localhost").body(Full::default());
        let request = request.map_err(|e| Failure::Protocol(format!("path {path}: {e}")))?;
        read_whole(converse(Box::new(stream), request.map(Payload::Whole)).await?).await
    };
    bounded(whole, socket.display().to_string(), within).await
}

async fn connect(host: &str, port: u16) -> Result<Box<dyn Stream>, Failure> {
    let stream = TcpStream::connect((host, port)).await.map_err(|e| connect_failure(&e))?;
    stream.set_nodelay(true).map_err(|e| connect_failure(&e))?;
    Ok(Box::new(stream))
}

/// A connection through a proxy, which also resolves the name (RFC 9110, section 9.3.6, "CONNECT").
async fn tunnel(proxy: &Intercept, uri: &Uri, port: u16) -> Result<Box<dyn Stream>, Failure> {
    let host = uri.host().unwrap_or_default();
    // After any failure here the host was not reached; only the host itself can cause a TLS failure.
    let failed = |cause: &dyn fmt::Display, way_out: &str| {
        Failure::Unreachable(format!("proxy {}: {cause}; {way_out}, or name {host} in NO_PROXY", shown(proxy)))
    };
    let answer = tokio::time::timeout(PROXY_TIMEOUT, ask_for_tunnel(proxy, &format!("{host}:{port}"))).await;
    let answer = answer
        .unwrap_or(Err(Failure::Timeout(PROXY_TIMEOUT)))
        .map_err(|failure| failed(&failure, "set HTTPS_PROXY right"))?;
    match answer.status() {
        status if status.is_success() => {
            let stream = hyper::upgrade::on(answer).await.map_err(|e| failed(&e, "set HTTPS_PROXY right"))?;
            Ok(Box::new(TokioIo::new(stream)))
        }
        status @ StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(failed(
            &format!("answers {status}"),
            match proxy.basic_auth() {
                Some(_) => "check the user and the password in HTTPS_PROXY",
                None => "set HTTPS_PROXY to http://user:password@host:port",
            },
        )),
        status => Err(failed(&format!("answers {status}"), &format!("allow {host}:{port} there"))),
    }
}

/// `http://host:port`; the URI does not have the password.
fn shown(proxy: &Intercept) -> String {
    proxy.uri().to_string().trim_end_matches('/').to_owned()
}

async fn ask_for_tunnel(proxy: &Intercept, authority: &str) -> Result<Response<Incoming>, Failure> {
    let (host, port, _) = target(proxy.uri())?;
    let mut request = Request::connect(authority).header(HOST, authority);
    if let Some(basic) = proxy.basic_auth() {
        request = request.header(PROXY_AUTHORIZATION, basic);
    }
    let request = request.body(Full::default()).map_err(|e| Failure::Protocol(format!("host {authority}: {e}")))?;
    converse(connect(&host, port).await?, request.map(Payload::Whole)).await
}

async fn read_whole(answer: Response<Incoming>) -> Result<Response<Bytes>, Failure> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|e| Failure::Protocol(e.to_string()))?.to_bytes();
    Ok(Response::from_parts(head, body))
}

async fn converse(stream: Box<dyn Stream>, request: Request<Payload>) -> Result<Response<Incoming>, Failure> {
    let broken = |e: hyper::Error| match e.is_closed() || e.is_incomplete_message() {
        // Of all bodies only a file can fail.
        _ if e.is_user()
            && let Some(cause) = std::error::Error::source(&e) =>
        {
            Failure::File(cause.to_string())
        }
        // With TLS 1.3 a server refuses our certificate after the handshake.
        _ if let Some(cause) = tls::explain(&e) => Failure::Tls(cause),
        true => Failure::Closed("does it speak TLS?".to_owned()),
        false if e.is_parse() => Failure::Protocol(format!("{e}; does it speak TLS?")),
        false => Failure::Protocol(e.to_string()),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends by itself when the sender and the body, or the stream after a CONNECT, are dropped.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(broken)
}

async fn bounded<T>(work: impl Future<Output = Result<T, Failure>>, url: String, within: Duration) -> Result<T, Error> {
    let outcome = tokio::time::timeout(within, work).await.unwrap_or(Err(Failure::Timeout(within)));
    outcome.map_err(|failure| Error { url, failure })
}

fn target(uri: &Uri) -> Result<(String, u16, bool), Failure> {
    let bad = || Failure::Protocol("is not an http:// or https:// URL".to_owned());
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(bad()),
    };
    let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
    Ok((host, uri.port_u16().unwrap_or(if secure { 443 } else { 80 }), secure))
}

fn host_header(uri: &Uri) -> Result<HeaderValue, Failure> {
    // Without a user and a password (RFC 9110, section 4.2.4).
    let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    HeaderValue::from_str(authority).map_err(|e| Failure::Protocol(format!("host {authority}: {e}")))
}

fn handshake_failure(error: &io::Error) -> Failure {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match (error.kind(), tls::explain(error)) {
        (_, Some(cause)) => Failure::Tls(cause),
        (BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof, None) => {
            Failure::Closed(format!("in the TLS handshake: {error}"))
        }
        (_, None) => Failure::Tls(error.to_string()),
    }
}

fn connect_failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        _ => Failure::Unreachable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::tls::Believed;

    /// A server for one request: reads the head, says that, and then reads the body until it has `most` of it.
    async fn serve_one(
        said: &'static str,
        most: usize,
        finally: &'static str,
    ) -> (String, tokio::task::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(said.as_bytes()).await.unwrap();
            let (mut received, mut buffer) = (0, vec![0; 1 << 16]);
            while received < most {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(more) => received += more,
                }
            }
            stream.write_all(finally.as_bytes()).await.unwrap();
            // It neither reads nor closes.
            if finally.is_empty() {
                std::future::pending::<()>().await;
            }
            received
        });
        (url, serving)
    }

    async fn send(url: &str, size: usize, stall: Duration) -> (Result<StatusCode, Error>, u64) {
        let scratch = crate::util::scratch::Scratch::make();
        let path = scratch.write("body", &"x".repeat(size));
        let part = crate::util::file_stream::Part { path: &path, from: 0, length: size as u64 };
        let pieces = Pieces::read(part).unwrap();
        let sent = std::sync::atomic::AtomicU64::new(0);
        let client = Client::new(Trust::new(Believed::Anybody, None, tls::Names::default()));
        let request = Request::put(url).body(()).unwrap();
        let progress = |bytes| sent.store(bytes, std::sync::atomic::Ordering::Relaxed);
        let answer = client.send_file(request, pieces, stall, &progress).await;
        (answer.map(|answer| answer.status()), sent.into_inner())
    }

    const LONG: Duration = Duration::from_secs(60);
    const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn a_file_goes_when_it_is_wanted_or_when_nobody_says_so() {
        const SIZE: usize = 3 << 20;
        for said in ["HTTP/1.1 100 Continue\r\n\r\n", ""] {
            let (url, serving) = serve_one(said, SIZE, DONE).await;
            let (answer, sent) = send(&url, SIZE, LONG).await;
            assert_eq!((answer.unwrap(), sent, serving.await.unwrap()), (StatusCode::OK, SIZE as u64, SIZE));
        }
    }

    #[tokio::test]
    async fn of_a_file_that_is_refused_nothing_is_sent() {
        let (url, serving) = serve_one("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", 1, DONE).await;
        let (answer, sent) = send(&url, 64 << 20, LONG).await;
        assert_eq!((answer.unwrap(), sent, serving.await.unwrap()), (StatusCode::FORBIDDEN, 0, 0));
    }

    /// hyper closes the connection of a server that has answered only if it happens to wait for the body just then.
    #[tokio::test]
    async fn a_file_waits_until_it_is_wanted_and_goes_nowhere_once_there_is_an_answer() {
        let scratch = crate::util::scratch::Scratch::make();
        let path = scratch.write("body", "file");
        let pieces = Pieces::read(crate::util::file_stream::Part { path: &path, from: 0, length: 4 }).unwrap();
        let (waits, answered) = oneshot::channel();
        let gate: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(std::future::pending());
        let mut file = FileBody { pieces, gate: Some(gate), taken: Arc::default(), answered, linger: None };
        let next = async |file: FileBody, within: Duration| {
            let mut body = Payload::File(file);
            let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            let frame = tokio::time::timeout(within, frame).await;
            (frame, body)
        };
        let (frame, body) = next(file, Duration::from_millis(300)).await;
        assert!(frame.is_err(), "nobody wants it yet");
        let Payload::File(back) = body else { unreachable!() };
        file = back;
        // It opens by its time, and nobody waits for the answer any more.
        file.gate = Some(Box::pin(std::future::ready(())));
        drop(waits);
        tokio::time::pause();
        let (frame, _) = next(file, LONG).await;
        let cause = frame.unwrap().unwrap().unwrap_err();
        assert!(cause.to_string().contains("answered before all of it was sent"), "{cause}");
    }

    #[tokio::test]
    async fn a_server_that_takes_no_more_is_left() {
        // More than what the sockets hold.
        let (url, serving) = serve_one("HTTP/1.1 100 Continue\r\n\r\n", 1 << 20, "").await;
        let left = tokio::time::timeout(LONG, send(&url, 64 << 20, Duration::from_millis(500))).await;
        let (answer, sent) = left.expect("it is not waited for");
        assert!(matches!(answer.unwrap_err().failure, Failure::Stalled(_)));
        assert!((1 << 20..64 << 20).contains(&sent), "{sent}");
        serving.abort();
    }

    #[tokio::test]
    async fn a_file_that_cant_be_read_is_not_the_servers_fault() {
        let (url, _serving) = serve_one("HTTP/1.1 100 Continue\r\n\r\n", 1 << 20, DONE).await;
        let part = crate::util::file_stream::Part { path: Path::new("/nonexistent/spool"), from: 0, length: 1 << 20 };
        let client = Client::new(Trust::new(Believed::Anybody, None, tls::Names::default()));
        let request = Request::put(&url).body(()).unwrap();
        let answer = client.send_file(request, Pieces::read(part).unwrap(), LONG, &|_| {}).await;
        let said = answer.unwrap_err().failure;
        assert!(matches!(&said, Failure::File(cause) if cause.contains("/nonexistent/spool: No such file")), "{said}");
    }

    #[test]
    fn an_endless_answer_has_an_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (answer, sent) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let endless = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                _ = stream.read(&mut [0; 4096]).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut sent = 0;
                while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {
                    sent += 1 << 16;
                }
                sent
            });
            let client = Client::new(Trust::new(Believed::Anybody, None, tls::Names::default()));
            let request = Request::get(&url).body(Full::default()).unwrap();
            let answer = client.fetch(request, Duration::from_secs(60)).await;
            (answer, endless.await.unwrap())
        });
        let failure = answer.unwrap_err().failure;
        assert!(matches!(&failure, Failure::Protocol(cause) if cause.contains("limit")), "{failure}");
        // Beside the limit there is what lay in the sockets.
        assert!(sent < 4 * MAX_BODY_BYTES, "{sent} bytes");
    }
}
