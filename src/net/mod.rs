//! Transport: HTTP, TLS, certificates, the way through a proxy, callers taken within bounds. It knows no meaning.

pub mod http;
pub mod pki;
pub mod proxy;
#[cfg(test)]
pub mod scripted;
pub mod serve;
pub mod tls;
