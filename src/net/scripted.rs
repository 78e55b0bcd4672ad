//! For tests: a server that answers by a script, on the test's own thread, so that paused time (tokio's) goes on only when nothing is
//! under way.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What is said to one request.
#[derive(Clone, Debug)]
pub enum Reply {
    Answer(u16, String),
    /// Nothing, ever.
    Silence,
}

impl Reply {
    /// 200, and this.
    pub fn ok(body: &str) -> Self {
        Self::Answer(200, body.to_owned())
    }

    /// That status, and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Answer(status, String::new())
    }
}

/// A server, and what it was asked: `METHOD /path body`.
#[derive(Debug)]
pub struct Scripted {
    pub url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// Serves until the runtime ends. The script is given each request as [`Scripted::asked`] has it, and how many like it came before.
    pub async fn start(script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
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

    /// All it was asked so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How many requests began so.
    pub fn count(&self, beginning: &str) -> usize {
        self.asked().iter().filter(|line| line.starts_with(beginning)).count()
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Arc<impl Fn(&str, usize) -> Reply>,
    seen: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let line = format!("{} {} {}", head.method, head.uri.path(), String::from_utf8_lossy(&body)).trim_end().to_owned();
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|earlier| **earlier == line).count();
        seen.push(line.clone());
        before
    };
    match script(&line, before) {
        Reply::Answer(status, body) => {
            Ok(Response::builder().status(status).body(Full::from(body)).unwrap_or_default())
        }
        Reply::Silence => std::future::pending().await,
    }
}
