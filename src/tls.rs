//! Who is trusted, for which connection.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The certificates a client accepts; made when the first `https` URL is met, so that a plain node never pays for it.
#[derive(Clone)]
pub struct Trust {
    /// PEM files whose certificates are trusted beside the public roots (`AWS_CA_BUNDLE`).
    extra: Option<PathBuf>,
    config: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("extra", &self.extra).finish_non_exhaustive()
    }
}

impl Trust {
    /// The public roots (Mozilla's, compiled in), and those of a PEM file.
    pub fn public(extra: Option<PathBuf>) -> Self {
        Self { extra, config: Arc::default() }
    }

    /// A TLS handshake with `host`.
    ///
    /// # Errors
    /// An unreadable PEM file, a host that is no name, a certificate that doesn't verify.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = match self.config.get() {
            Some(config) => config.clone(),
            None => {
                let config = self.load()?;
                self.config.get_or_init(|| config).clone()
            }
        };
        TlsConnector::from(config).connect(name, stream).await
    }

    fn load(&self) -> io::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        if let Some(path) = &self.extra {
            let named = |e: &dyn fmt::Display| io::Error::other(format!("{}: {e}", path.display()));
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| named(&e))? {
                roots.add(certificate.map_err(|e| named(&e))?).map_err(|e| named(&e))?;
            }
        }
        // aws-lc-rs, because etcd's automatic certificates are P-521, which ring can't verify.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }
}
