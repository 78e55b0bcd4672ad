//! One bounded HTTP/1.1 exchange, and failures told apart by what they prove.
//!
//! A connection per exchange: this program makes a few requests a minute at most, and a pool would outlive the peers it
//! points at.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::net::proxy::Proxy;
use crate::net::tls::{self, Trust};
use crate::util::words;

/// The longest body `fetch` takes: a member list of hundreds of members is below 1 MiB.
const MAX_BODY_BYTES: usize = 4 << 20;

/// How long a proxy may take to connect us: less than the shortest deadline of those who call through one (5 s), so that what
/// didn't answer can be named.
const PROXY_TIMEOUT: Duration = Duration::from_secs(4);

/// A request with a body that is at hand.
pub type Outgoing = Request<Full<Bytes>>;

/// A connection of any kind. Behind a pointer, so that hyper is compiled once and not for each kind: its code is most of what
/// a supervisor at rest has in memory.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why an exchange gave no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The host is up and nothing listens.
    Refused,
    /// No name, or no route.
    Unreachable(String),
    /// Somebody took the connection, and closed it without an answer: what etcd's TLS port does with plain HTTP.
    Closed(String),
    /// Nothing within the deadline.
    Timeout(Duration),
    /// The TLS handshake failed.
    Tls(String),
    /// The other side doesn't speak HTTP as expected.
    Protocol(String),
}

/// A failed exchange: the URL, which is shown without what may be secret in it, and why.
#[derive(Clone, Debug)]
pub struct Error {
    pub url: String,
    pub failure: Failure,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable(cause) => write!(f, "unreachable: {cause}"),
            Self::Closed(cause) => write!(f, "the connection was closed without an answer: {cause}"),
            Self::Timeout(after) => write!(f, "no answer within {} ms", after.as_millis()),
            Self::Tls(cause) => write!(f, "TLS: {cause}"),
            Self::Protocol(cause) => write!(f, "not the expected HTTP: {cause}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", words::without_secrets(&self.url), self.failure)
    }
}

impl std::error::Error for Error {}

/// Makes exchanges under one trust.
#[derive(Clone, Debug)]
pub struct Client {
    trust: Trust,
    proxy: Option<Proxy>,
}

impl Client {
    /// A client that trusts so for `https`, and connects by itself.
    pub fn new(trust: Trust) -> Self {
        Self { trust, proxy: None }
    }

    /// The same, by way of a proxy where that one is for the URL's host.
    pub fn through(self, proxy: Option<Proxy>) -> Self {
        Self { proxy, ..self }
    }

    /// Sends and reads the whole answer, all within the deadline.
    ///
    /// # Errors
    /// [`Failure`], with the URL. An HTTP error status is an answer, not an error.
    pub async fn fetch(&self, request: Outgoing, within: Duration) -> Result<Response<Bytes>, Error> {
        let url = request.uri().to_string();
        bounded(async { read_whole(self.exchange(request).await?).await }, url, within).await
    }

    /// Sends and returns as soon as the head of the answer is there; the body is read as it comes.
    ///
    /// # Errors
    /// As [`Client::fetch`]; the deadline covers the head only.
    pub async fn open(&self, request: Outgoing, within: Duration) -> Result<Response<Incoming>, Error> {
        let url = request.uri().to_string();
        bounded(self.exchange(request), url, within).await
    }

    async fn exchange(&self, mut request: Outgoing) -> Result<Response<Incoming>, Failure> {
        let uri = request.uri().clone();
        let (host, port, secure) = target(&uri)?;
        let proxy = self.proxy.as_ref().and_then(|proxy| proxy.intercept(&uri));
        let stream = match &proxy {
            Some(proxy) => tunnel(proxy, &uri, port).await?,
            None => connect(&host, port).await?,
        };
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, host_header(&uri)?);
        }
        // Origin form: what servers and the SigV4 canonical request expect.
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        *request.uri_mut() = path.parse().map_err(|e| Failure::Protocol(format!("path: {e}")))?;
        if secure {
            // It may be the proxy that speaks there, if it looks inside.
            let way = proxy.as_ref().map_or(String::new(), |proxy| format!("; by way of proxy {}", shown(proxy)));
            let stream = self.trust.connect(&host, stream).await.map_err(|e| match handshake_failure(&e) {
                Failure::Tls(cause) => Failure::Tls(cause + &way),
                Failure::Unreachable(cause) => Failure::Unreachable(cause + &way),
                other => other,
            })?;
            converse(Box::new(stream), request).await
        } else {
            converse(stream, request).await
        }
    }
}

/// Gets a path from whoever listens on a unix socket.
///
/// # Errors
/// [`Failure`], with the socket's path.
pub async fn fetch_at(socket: &Path, path: &str, within: Duration) -> Result<Response<Bytes>, Error> {
    let whole = async {
        let stream = UnixStream::connect(socket).await.map_err(|e| connect_failure(&e))?;
        let request = Request::get(path).header(HOST, "localhost").body(Full::default());
        let request = request.map_err(|e| Failure::Protocol(format!("path {path}: {e}")))?;
        read_whole(converse(Box::new(stream), request).await?).await
    };
    bounded(whole, socket.display().to_string(), within).await
}

async fn connect(host: &str, port: u16) -> Result<Box<dyn Stream>, Failure> {
    let stream = TcpStream::connect((host, port)).await.map_err(|e| connect_failure(&e))?;
    stream.set_nodelay(true).map_err(|e| connect_failure(&e))?;
    Ok(Box::new(stream))
}

/// A connection by way of a proxy, which also looks the name up (RFC 9110, section 9.3.6, "CONNECT").
async fn tunnel(proxy: &Intercept, uri: &Uri, port: u16) -> Result<Box<dyn Stream>, Failure> {
    let host = uri.host().unwrap_or_default();
    // Whatever goes wrong, what was asked for was not reached; a TLS failure is only what the host itself says.
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
        status => Err(failed(&format!("answers {status}"), &format!("have it allow {host}:{port}"))),
    }
}

/// `http://host:port`; the password isn't in its URI.
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
    converse(connect(&host, port).await?, request).await
}

async fn read_whole(answer: Response<Incoming>) -> Result<Response<Bytes>, Failure> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|e| Failure::Protocol(e.to_string()))?.to_bytes();
    Ok(Response::from_parts(head, body))
}

async fn converse(stream: Box<dyn Stream>, request: Outgoing) -> Result<Response<Incoming>, Failure> {
    let broken = |e: hyper::Error| match e.is_closed() || e.is_incomplete_message() {
        // With TLS 1.3 a server refuses our certificate after the handshake.
        _ if let Some(cause) = tls::explain(&e) => Failure::Tls(cause),
        true => Failure::Closed("does it speak TLS?".to_owned()),
        false if e.is_parse() => Failure::Protocol(format!("{e}; does it speak TLS?")),
        false => Failure::Protocol(e.to_string()),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends by itself when the sender and the body are dropped, or what a CONNECT upgraded it to.
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
