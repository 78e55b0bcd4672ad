//! Which certificates are accepted for which connection, and which ones this node presents.
//!
//! Files are read at every handshake, as in etcd: a renewed certificate counts from the next connection on. They are read on
//! another thread, because a pipe or a dead mount would block the main thread.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, PeerIncompatible,
    RootCertStore, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::net::pki::{Certificate, pem};
use crate::util::lock::lock;

/// A certificate chain and its key, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A file of further CAs in PEM, and the variable that names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaFile {
    pub variable: &'static str,
    pub path: PathBuf,
}

/// Which servers are accepted.
#[derive(Clone, Debug)]
pub enum Believed {
    /// Those whose certificate chains to a public root (Mozilla's, compiled in), or to one in these files.
    Public { beside: Vec<CaFile> },
    /// Those whose certificate chains to one of the certificates in this PEM file.
    SignedBy(PathBuf),
    /// Any: for `--insecure`, and all that is possible with etcd's automatic certificates.
    Anybody,
}

/// The other names for which a host's certificate may be valid: members are reached at addresses. Shared by all clones, and
/// extended over time.
#[derive(Clone, Default, Debug)]
pub struct Names(Arc<Mutex<BTreeMap<String, Vec<String>>>>);

impl Names {
    /// From now on a certificate for any of these names is accepted at `host`, too.
    pub fn learn(&self, host: &str, names: Vec<String>) {
        self.held().insert(host.to_owned(), names);
    }

    fn of(&self, host: &str) -> Vec<String> {
        self.held().get(host).cloned().unwrap_or_default()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        lock(&self.0)
    }
}

/// The settings of a TLS client.
#[derive(Clone)]
pub struct Trust {
    believed: Believed,
    shown: Option<KeyFiles>,
    names: Names,
    /// At these hosts only the first certificate in this file is accepted.
    pinned: Option<(Vec<String>, PathBuf)>,
    /// The configuration for AWS is built once: public roots never change while we run, and are many.
    kept: Option<Arc<OnceLock<Arc<ClientConfig>>>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("believed", &self.believed).field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl Trust {
    /// Accepts these servers, also under these names, and presents that certificate if they ask.
    pub fn new(believed: Believed, shown: Option<KeyFiles>, names: Names) -> Self {
        Self { believed, shown, names, pinned: None, kept: None }
    }

    /// At these hosts, which are our own, only the first certificate in that file is accepted.
    #[must_use]
    pub fn pinning(self, hosts: Vec<String>, cert: PathBuf) -> Self {
        Self { pinned: Some((hosts, cert)), ..self }
    }

    /// How AWS is verified: by the public roots, and by those of further files. The files are loaded on the first connection, and the load is
    /// retried until it succeeds. A bad file makes AWS unreachable, but never stops etcd from starting.
    pub fn public(beside: impl IntoIterator<Item = CaFile>) -> Self {
        let believed = Believed::Public { beside: beside.into_iter().collect() };
        Self { believed, shown: None, names: Names::default(), pinned: None, kept: Some(Arc::default()) }
    }

    /// A TLS handshake with `host`.
    ///
    /// # Errors
    /// A file can't be read, the host is not a name, one side does not accept the other's certificate, or the connection fails.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<client::TlsStream<S>> {
        self.greet(host, stream, self.config(host).await?).await
    }

    /// The same, for that protocol alone (ALPN, RFC 7301): a server that speaks it, and says so.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); and the server names no protocol, or another.
    pub async fn connect_for<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
        protocol: &'static str,
    ) -> io::Result<client::TlsStream<S>> {
        let mut config = ClientConfig::clone(&*self.config(host).await?);
        config.alpn_protocols = vec![protocol.into()];
        let stream = self.greet(host, stream, Arc::new(config)).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(agreed) if agreed == protocol.as_bytes() => Ok(stream),
            _ => Err(io::Error::other(format!("it does not offer {protocol} (ALPN)"))),
        }
    }

    async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
        config: Arc<ClientConfig>,
    ) -> io::Result<client::TlsStream<S>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connected = TlsConnector::from(config).connect(name, stream).await;
        connected.map_err(|error| match self.kept.is_some() && is_by_unknown_issuer(&error) {
            true => {
                let cause = explain(&error).unwrap_or_default();
                io::Error::other(format!("{cause}; if this is your own CA, name its file in AWS_CA_BUNDLE"))
            }
            false => error,
        })
    }

    async fn config(&self, host: &str) -> io::Result<Arc<ClientConfig>> {
        let Some(kept) = &self.kept else { return self.load(host).await };
        if let Some(config) = kept.get() {
            return Ok(config.clone());
        }
        let config = self.load(host).await?;
        Ok(kept.get_or_init(|| config).clone())
    }

    async fn load(&self, host: &str) -> io::Result<Arc<ClientConfig>> {
        let proof = self.proof(host).await?;
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let builder =
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { proof, provider: provider() }));
        let mut config = match &self.shown {
            Some(KeyFiles { cert, key }) => builder.with_client_auth_cert(chain(cert).await?, private_key(key).await?),
            None => Ok(builder.with_no_client_auth()),
        }
        .map_err(io::Error::other)?;
        // A configuration is used for one connection, or for one call in minutes.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    async fn proof(&self, host: &str) -> io::Result<Proof> {
        if let Some((_, cert)) = self.pinned.as_ref().filter(|(hosts, _)| hosts.iter().any(|own| own == host)) {
            // `chain` never returns an empty one.
            return Ok(Proof::Pinned(chain(cert).await?.swap_remove(0)));
        }
        let mut roots = RootCertStore::empty();
        match &self.believed {
            Believed::Public { beside } => {
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
                for file in beside {
                    file.add_to(&mut roots).await.map_err(|e| io::Error::other(format!("{}={e}", file.variable)))?;
                }
            }
            Believed::SignedBy(path) => add_roots(&mut roots, path).await?,
            Believed::Anybody => return Ok(Proof::None),
        }
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        let webpki = webpki.build().map_err(io::Error::other)?;
        let also = self.names.of(host).into_iter().map(|name| ServerName::try_from(name).map_err(io::Error::other));
        Ok(Proof::Signed { webpki, also: also.collect::<io::Result<_>>()? })
    }
}

/// What a server presents, and which clients it accepts.
#[derive(Clone)]
pub struct Acceptor {
    key: ServerKey,
    demands: Option<Demands>,
}

/// The requirements for clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Demands {
    /// A certificate that chains to one in this PEM file,
    pub ca: PathBuf,
    /// is on none of the revocation lists in this one,
    pub revoked: Option<PathBuf>,
    /// has one of these common names, unless the list is empty (`--peer-cert-allowed-cn`),
    pub common_names: Vec<String>,
    /// and is valid for one of these hosts, likewise (`--peer-cert-allowed-hostname`).
    pub hosts: Vec<String>,
}

impl Demands {
    /// Whether these files can be used at all.
    ///
    /// # Errors
    /// The file that can't be used, with the reason.
    pub async fn check(&self) -> io::Result<()> {
        self.verifier().await.map(|_| ())
    }

    async fn verifier(&self) -> io::Result<Arc<dyn ClientCertVerifier>> {
        let mut roots = RootCertStore::empty();
        add_roots(&mut roots, &self.ca).await?;
        let mut clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let mut measure = &self.ca;
        if let Some(path) = &self.revoked {
            measure = path;
            let lists = pem::fetch(path).await.map_err(io::Error::other)?.revocations;
            if lists.is_empty() {
                return Err(at(path, &"has no revocation list in PEM"));
            }
            // As in etcd: only the certificate itself is looked up, and a list without it does not forbid it.
            clients = clients.with_crls(lists).only_check_end_entity_revocation().allow_unknown_revocation_status();
        }
        clients.build().map_err(|e| at(measure, &e))
    }

    fn admit(&self, shown: Option<&[CertificateDer<'_>]>) -> io::Result<()> {
        let refused = |cause: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, cause));
        let Some(leaf) = shown.and_then(<[_]>::first) else {
            return refused(
                "the client sent no \
            certificate"
                    .to_owned(),
            );
        };
        let Some(Certificate { subject, common_name, .. }) = Certificate::read(leaf) else {
            return refused("the client's certificate can't be read".to_owned());
        };
        if !self.common_names.is_empty() && common_name.is_none_or(|name| !self.common_names.contains(&name)) {
            return refused(format!("\"{subject}\" is not among the allowed: {}", self.common_names.join(", ")));
        }
        let is_for = |host: &String| {
            let parsed = ParsedCertificate::try_from(leaf).ok();
            let name = ServerName::try_from(host.as_str()).ok();
            parsed.zip(name).is_some_and(|(parsed, name)| verify_server_name(&parsed, &name).is_ok())
        };
        if !self.hosts.is_empty() && !self.hosts.iter().any(is_for) {
            return refused(format!("\"{subject}\" is not valid for any of {}", self.hosts.join(", ")));
        }
        Ok(())
    }
}

#[derive(Clone)]
enum ServerKey {
    Files(KeyFiles),
    Memory(Arc<SingleCertAndKey>),
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("demands", &self.demands).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Presents the certificate in these files.
    pub fn of_files(files: KeyFiles, demands: Option<Demands>) -> Self {
        Self { key: ServerKey::Files(files), demands }
    }

    /// Presents this certificate, and accepts any client.
    pub fn of_memory(certified: CertifiedKey) -> Self {
        Self { key: ServerKey::Memory(Arc::new(certified.into())), demands: None }
    }

    /// A TLS handshake with a client.
    ///
    /// # Errors
    /// A file can't be read, the client is not accepted or does not speak TLS, or the connection fails.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<server::TlsStream<S>> {
        let stream = TlsAcceptor::from(Arc::new(self.load().await?)).accept(stream).await?;
        self.demands.as_ref().map_or(Ok(()), |demands| demands.admit(stream.get_ref().1.peer_certificates()))?;
        Ok(stream)
    }

    async fn load(&self) -> io::Result<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let builder = match &self.demands {
            None => builder.with_no_client_auth(),
            Some(demands) => builder.with_client_cert_verifier(demands.verifier().await?),
        };
        let mut config = match &self.key {
            ServerKey::Memory(certified) => builder.with_cert_resolver(certified.clone()),
            ServerKey::Files(KeyFiles { cert, key }) => {
                builder.with_single_cert(chain(cert).await?, private_key(key).await?).map_err(io::Error::other)?
            }
        };
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// aws-lc-rs, because etcd's automatic certificates are P-521, which ring can't verify.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

fn at(path: &Path, cause: &dyn fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {cause}", path.display()))
}

/// At least one certificate.
async fn chain(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let contents = pem::fetch(path).await.and_then(|contents| contents.certificates(&path.display().to_string()));
    contents.map_err(io::Error::other)
}

async fn private_key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    let contents = pem::fetch(path).await.and_then(|contents| contents.key(&path.display().to_string()));
    contents.map_err(io::Error::other)
}

async fn add_roots(roots: &mut RootCertStore, path: &Path) -> io::Result<()> {
    for certificate in chain(path).await? {
        roots.add(certificate).map_err(|e| at(path, &e))?;
    }
    Ok(())
}

impl CaFile {
    async fn add_to(&self, roots: &mut RootCertStore) -> io::Result<()> {
        let certificates = chain(&self.path).await?;
        let all = certificates.len();
        // Whole bundles of a distribution may be named here: one odd certificate is no reason to trust none of them.
        match roots.add_parsable_certificates(certificates) {
            (0, _) => Err(at(&self.path, &format!("none of its {all} certificates can be read"))),
            (_, 0) => Ok(()),
            (_, odd) => {
                let (variable, path) = (self.variable, self.path.display());
                log::warn!("{variable}={path}: {odd} of its {all} certificates can't be read and aren't trusted");
                Ok(())
            }
        }
    }
}

fn is_by_unknown_issuer(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(tls, Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)))
}

/// What failed in a handshake, or after it by a TLS alert, as text for an operator; `None`: it was not TLS that failed.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = error.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref()));
        if let Some(tls) = tls {
            return Some(in_words(tls));
        }
        next = error.source();
    }
    None
}

fn in_words(error: &rustls::Error) -> String {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer};
    match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            "its certificate is not signed by a CA that is trusted here".to_owned()
        }
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => "its certificate has expired".to_owned(),
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "its certificate is not valid yet; is a clock wrong?".to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            "its certificate is not the one stored here".to_owned()
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS; is it plain HTTP?".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "it speaks neither TLS 1.2 nor 1.3".to_owned(),
        rustls::Error::AlertReceived(alert) => format!(
            "it refused the handshake ({alert:?}): check this node's \
            certificate"
        ),
        other => other.to_string(),
    }
}

/// How a server's certificate is verified. In any case the server must prove that it has the key.
#[derive(Debug)]
struct Verifier {
    proof: Proof,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Proof {
    /// It chains to a root, and is valid for the host or another of its names.
    Signed {
        webpki: Arc<WebPkiServerVerifier>,
        also: Vec<ServerName<'static>>,
    },
    /// It is this one.
    Pinned(CertificateDer<'static>),
    None,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.proof {
            Proof::Signed { webpki, also } => {
                let verify = |name: &ServerName<'_>| {
                    webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
                };
                let by_host = verify(server_name);
                also.iter().fold(by_host, |verified, name| verified.or_else(|first| verify(name).map_err(|_| first)))
            }
            Proof::Pinned(pinned) if pinned != end_entity => {
                Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            Proof::Pinned(_) | Proof::None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_let_in_by_its_common_name_and_by_a_host_it_is_for() {
        let mut params = rcgen::CertificateParams::new(["etcd.example.com".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "node-1");
        let leaf = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone();
        let admits = |common_names: &[&str], hosts: &[&str]| {
            let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let demands =
                Demands { ca: PathBuf::new(), revoked: None, common_names: own(common_names), hosts: own(hosts) };
            demands.admit(Some(std::slice::from_ref(&leaf))).map_err(|e| e.to_string())
        };
        assert_eq!(admits(&[], &[]), Ok(()));
        assert_eq!(admits(&["node-2", "node-1"], &["etcd.example.com"]), Ok(()));
        assert_eq!(admits(&["node-2"], &[]), Err("\"node-1\" is not among the allowed: node-2".to_owned()));
        assert_eq!(admits(&[], &["example.com"]), Err("\"node-1\" is not valid for any of example.com".to_owned()));
        let nobody = Demands { ca: PathBuf::new(), revoked: None, common_names: vec![], hosts: vec![] };
        assert!(nobody.admit(None).is_err());
    }
}
