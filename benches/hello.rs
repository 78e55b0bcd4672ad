//! No measurement, but what the executable's size is compared with: the least that uses the same crates, in the same profile and
//! for the same target. One signed request over TLS, its XML read event by event, a line of JSON printed, and one answer served.
//!
//!     hello --url https://ec2.eu-west-1.amazonaws.com/

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use argh::FromArgs;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use quick_xml::Reader;
use quick_xml::events::Event;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// Say hello to EC2.
#[derive(FromArgs)]
struct Hello {
    /// whom to ask
    #[argh(option)]
    url: String,
}

#[derive(Serialize)]
struct Said {
    elements: usize,
    at: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Hello { url } = argh::from_env();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(hello(&url))
}

async fn hello(url: &str) -> Result<(), Box<dyn Error>> {
    let body = "Action=DescribeInstances&Version=2016-11-15";
    let mut request = Request::post(url).body(Full::<Bytes>::from(body))?;
    let identity = Credentials::new("id", "secret", None, None, "hello").into();
    let params = SigningParams::builder().identity(&identity).region("eu-west-1").name("ec2");
    let params = params.time(UNIX_EPOCH + Duration::from_secs(1)).settings(SigningSettings::default()).build()?.into();
    let signable = SignableRequest::new("POST", url, std::iter::empty(), SignableBody::Bytes(body.as_bytes()))?;
    sign(signable, &params)?.into_parts().0.apply_to_request_http1x(&mut request);

    let host = request.uri().host().ok_or("no host")?.to_owned();
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect((host.as_str(), 443)).await?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(host.try_into()?, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await?.into_body().collect().await?.to_bytes();

    let (mut reader, mut buffer, mut elements) = (Reader::from_reader(&answer[..]), Vec::new(), 0);
    loop {
        match reader.read_event_into(&mut buffer)? {
            Event::Start(_) => elements += 1,
            Event::Eof => break,
            _ => {}
        }
    }
    let said = Said { elements, at: OffsetDateTime::now_utc().format(&Rfc3339)? };
    let said = serde_json::to_string(&said)?;
    println!("{said}");

    let (stream, _) = TcpListener::bind("127.0.0.1:0").await?.accept().await?;
    let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(said.clone()))) });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await?;
    Ok(())
}
