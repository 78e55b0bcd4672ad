//! For tests: a server that answers from a script, on the test's own thread, so that paused time (tokio's) advances only when
//! nothing is in progress.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, IF_MATCH, IF_NONE_MATCH};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The answer to one request.
#[derive(Clone, Debug)]
pub enum Reply {
    Answer(u16, String),
    /// The same, with this header.
    Headed(u16, (&'static str, String), String),
    /// The same, with these headers.
    With(u16, Vec<(&'static str, String)>, String),
    /// No answer, ever.
    Silence,
}

impl Reply {
    /// 200 with this body.
    pub fn ok(body: &str) -> Self {
        Self::Answer(200, body.to_owned())
    }

    /// That status without a body.
    pub fn status(status: u16) -> Self {
        Self::Answer(status, String::new())
    }
}

/// A server and its requests: `METHOD /path body`; a condition (`if-match=…`) precedes the body.
#[derive(Debug)]
pub struct Scripted {
    pub url: String,
    asked: Asked,
}

/// Each request as [`Scripted::asked`] has it, with its headers.
type Asked = Arc<Mutex<Vec<(String, HeaderMap)>>>;

impl Scripted {
    /// Serves until the runtime ends. The script gets each request as [`Scripted::asked`] has it, and the number of equal
    /// requests before it.
    pub async fn start(script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    /// The same, at that address.
    pub async fn start_at(address: &str, script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Asked::default();
        let (script, seen) = (Arc::new(script), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, seen) = (script.clone(), seen.clone());
                let serve = service_fn(move |request| answer(request, script.clone(), seen.clone()));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve);
                tokio::spawn(async move { _ = connection.await });
            }
        });
        Self { url, asked }
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    /// The values of that header in the requests that began so.
    pub fn header(&self, beginning: &str, name: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let headers = asked.iter().filter(|(line, _)| line.starts_with(beginning)).map(|(_, headers)| headers);
        headers.map(|headers| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned()).collect()
    }

    /// How many requests began so.
    pub fn count(&self, beginning: &str) -> usize {
        self.asked().iter().filter(|line| line.starts_with(beginning)).count()
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Arc<impl Fn(&str, usize) -> Reply>,
    seen: Asked,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let conditions = [IF_MATCH, IF_NONE_MATCH].into_iter().filter_map(|name| {
        let value = head.headers.get(&name)?.to_str().ok()?;
        Some(format!("{name}={value} "))
    });
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let conditions = conditions.collect::<String>();
    let line = format!("{} {path} {conditions}{}", head.method, String::from_utf8_lossy(&body)).trim_end().to_owned();
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|(earlier, _)| *earlier == line).count();
        seen.push((line.clone(), head.headers.clone()));
        before
    };
    match script(&line, before) {
        Reply::Answer(status, body) => {
            Ok(Response::builder().status(status).body(Full::from(body)).unwrap_or_default())
        }
        Reply::Headed(status, (name, value), body) => {
            Ok(Response::builder().status(status).header(name, value).body(Full::from(body)).unwrap_or_default())
        }
        Reply::With(status, headers, body) => {
            let builder = Response::builder().status(status);
            let builder = headers.into_iter().fold(builder, |builder, (name, value)| builder.header(name, value));
            Ok(builder.body(Full::from(body)).unwrap_or_default())
        }
        Reply::Silence => std::future::pending().await,
    }
}
