//! Transport: HTTP, TLS, certificates, proxies, and bounded servers. It knows nothing of the messages.

pub mod http;
pub mod http2;
pub mod pki;
pub mod proxy;
#[cfg(test)]
pub mod scripted;
pub mod serve;
pub mod tls;
