//! The routes and the listeners: always a socket beside the data, and an address if one is configured.
//!
//! Nothing here can end or block the supervisor: each connection is its own task, bounded in number, time and memory; a failure
//! to listen is retried.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::metrics;
use super::recorder::StatusRecorder;
use super::snapshot::Snapshot;
use crate::net::serve::{Answering, Listener, Room, answer};
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::log_once::LogOnce;
use crate::util::words;

/// The socket's name in the directory of our files.
pub const SOCKET: &str = "status.sock";

/// Balancers and probes are few, and may all come from one address.
const ROOM: Room = Room { in_all: 16, of_one_address: 16 };
/// The pause after a failure to listen; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// Readable and writable by its owner only.
    Socket(PathBuf),
    /// `MUSTER_STATUS_LISTEN`.
    Address(SocketAddr),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Address(address) => write!(f, "MUSTER_STATUS_LISTEN={address}"),
        }
    }
}

/// Serves there from now on, as soon as the address is free.
pub fn serve(recorder: &StatusRecorder, place: Place) {
    let recorder = recorder.clone();
    let answering: Answering = Arc::new(move |request| {
        let response = respond(&recorder, &request);
        Box::pin(async move { response })
    });
    tokio::spawn(async move {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut complained = LogOnce::default();
        let listener = loop {
            let trouble = match listen_at(&place).await {
                Ok(listener) => break listener,
                Err(error) => error,
            };
            let line = format!("status can't be served at {place}: {trouble}; retrying");
            if complained.is_news(&line) {
                log::warn!("{line}");
            }
            clock::pause(backoff.pause()).await;
        };
        log::info!("status is served at {place}");
        match answer(listener, ROOM, None, answering).await {}
    });
}

async fn listen_at(place: &Place) -> io::Result<Listener> {
    match place {
        Place::Socket(path) => bind(path).await.map(Listener::Socket),
        Place::Address(address) => TcpListener::bind(address).await.map(Listener::Address),
    }
}

/// Replaces a socket that an ended supervisor left, but not one that answers. Created under another name, so that it can't be
/// reached before its permissions are set.
async fn bind(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another supervisor answers there"));
    }
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&draft)?;
    fs::set_permissions(&draft, Permissions::from_mode(0o600))?;
    fs::rename(&draft, path)?;
    Ok(listener)
}

fn respond(recorder: &StatusRecorder, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let page = page(request.method(), request.uri().path(), &recorder.snapshot());
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    if page.status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    response
}

struct Page {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

fn page(method: &Method, path: &str, now: &Snapshot) -> Page {
    const TEXT: &str = "text/plain; charset=utf-8";
    let text = |status, body: String| Page { status, content_type: TEXT, body };
    if !["/livez", "/readyz", "/metrics", "/status"].contains(&path) {
        return text(StatusCode::NOT_FOUND, "/livez, /readyz, /metrics or /status\n".to_owned());
    }
    if method != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
    }
    let by = |good: bool| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match path {
        "/livez" if now.live => text(StatusCode::OK, "live\n".to_owned()),
        "/livez" => text(by(false), "the supervisor's main loop has not reported for too long\n".to_owned()),
        "/readyz" => text(by(now.ready), format!("{}: {}\n", now.step.replace('_', " "), now.reason)),
        "/metrics" => Page { status: StatusCode::OK, content_type: metrics::CONTENT_TYPE, body: metrics::render(now) },
        _ => match serde_json::to_string_pretty(now) {
            Ok(json) => Page {
                status: StatusCode::OK,
                content_type: "application/json",
                body: words::escaped(&json).into_owned() + "\n",
            },
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let mut now = Snapshot { step: "hold".to_owned(), reason: "why".to_owned(), live: true, ..Snapshot::default() };
        let got = |method: Method, path: &str, now: &Snapshot| {
            let page = page(&method, path, now);
            (page.status.as_u16(), page.body)
        };
        assert_eq!(got(Method::GET, "/livez", &now).0, 200);
        assert_eq!(got(Method::GET, "/readyz", &now), (503, "hold: why\n".to_owned()));
        assert_eq!(got(Method::GET, "/metrics", &now).0, 200);
        let (status, json) = got(Method::GET, "/status", &now);
        assert_eq!((status, serde_json::from_str::<Snapshot>(&json).unwrap()), (200, now.clone()));
        for path in ["/", "/muster/v1/hello", "/metrics/", "/v3/kv/range"] {
            assert_eq!(got(Method::GET, path, &now).0, 404, "{path}");
        }
        for method in [Method::POST, Method::PUT, Method::HEAD, Method::DELETE] {
            assert_eq!(got(method, "/readyz", &now).0, 405);
        }
        (now.ready, now.live) = (true, false);
        assert_eq!(got(Method::GET, "/readyz", &now).0, 200);
        assert_eq!(got(Method::GET, "/livez", &now).0, 503);
    }
}
