//! A certificate with its key, and the CAs that verify it, from an operator's files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{CertificateError, RootCertStore};

use super::certificate::{Certificate, hex};
use super::fault::{Fault, Flaw};
use super::pem;

/// A chain, leaf first, and the leaf's private key.
#[derive(Clone)]
pub struct Pair {
    place: String,
    chain: Vec<Certificate>,
    certified: Arc<CertifiedKey>,
    digest: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("place", &self.place).field("leaf", self.leaf()).finish_non_exhaustive()
    }
}

/// What a pair must be valid for.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// Seconds since the epoch.
    pub now: i64,
    /// The CAs that verify it; `None`: none is known, so the chain is not verified.
    pub ca: Option<&'a Ca>,
    /// The DNS names and addresses under which this node is advertised. The certificate must be valid for **each**: members and
    /// clients verify the one they dialled, and each may dial another.
    pub names: &'a [String],
    /// Client certificates are required: etcd's gateway is a client of its own server, with this certificate.
    pub as_client: bool,
}

impl Pair {
    /// Reads a PEM chain, and the PEM key (PKCS#8, SEC 1 or PKCS#1) of its first certificate.
    ///
    /// # Errors
    /// What is wrong with the files. [`check`](Self::check) tells whether they are valid now and here.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Fault> {
        let (place, key_place) = (certificate.display().to_string(), key.display().to_string());
        Self::parse((place, &pem::read_file(certificate)?), (key_place, &pem::read_file(key)?))
    }

    /// The same from texts, each with its source.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse((place, certificate): (String, &[u8]), (key_place, key): (String, &[u8])) -> Result<Self, Fault> {
        let (chain, facts) = read_certificates(&place, certificate)?;
        let key = read_key(&key_place, key)?;
        match facts.iter().position(|facts| is_key_of(&*key, facts)) {
            Some(0) => Ok(Self::of(place, chain, facts, key)),
            Some(nth) => {
                let first = facts.into_iter().next().map(|facts| facts.subject).unwrap_or_default();
                Err(Fault { place, flaw: Flaw::WrongOrder { first, leaf: nth + 1 } })
            }
            None => {
                let subject = facts.into_iter().next().map(|facts| facts.subject).unwrap_or_default();
                Err(Fault { place: key_place, flaw: Flaw::Mismatch { certificate: place, subject } })
            }
        }
    }

    pub(super) fn of(
        place: String,
        chain: Vec<CertificateDer<'static>>,
        facts: Vec<Certificate>,
        key: Arc<dyn SigningKey>,
    ) -> Self {
        let digest = digest_of(&chain);
        Self { place, chain: facts, certified: Arc::new(CertifiedKey::new(chain, key)), digest }
    }

    /// The first certificate.
    pub fn leaf(&self) -> &Certificate {
        // Neither `read_certificates` nor the issuer makes an empty chain.
        &self.chain[0]
    }

    /// For both sides of a connection, through rustls' `SingleCertAndKey`.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// The SHA-256 of the chain, in hex: it changes with the file.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether it is valid now, verified by a CA, and valid for all those names and usages.
    ///
    /// # Errors
    /// The first reason for which a peer or client would refuse it.
    pub fn check(&self, want: &Want<'_>) -> Result<(), Fault> {
        let fault = |flaw| Fault { place: self.place.clone(), flaw };
        // webpki decides which of the others are needed.
        in_time(self.leaf(), want.now).map_err(fault)?;
        let leaf = self.leaf();
        let subject = || leaf.subject.clone();
        let (first, intermediates) = self.certified.cert.split_first().ok_or_else(|| fault(Flaw::BadCertificate(1)))?;
        let parsed = ParsedCertificate::try_from(first).map_err(|_| fault(Flaw::BadCertificate(1)))?;
        for name in want.names {
            let server = ServerName::try_from(name.as_str()).map_err(|_| fault(Flaw::BadName(name.clone())))?;
            verify_server_name(&parsed, &server)
                .map_err(|_| fault(Flaw::NotFor { name: name.clone(), names: leaf.names.clone() }))?;
        }
        if !leaf.server_auth {
            return Err(fault(Flaw::NoServerAuth { subject: subject() }));
        }
        if want.as_client && !leaf.client_auth {
            return Err(fault(Flaw::NoClientAuth { subject: subject() }));
        }
        match want.ca {
            Some(ca) => self.check_chain(ca, &parsed, first, intermediates, want),
            None => Ok(()),
        }
    }

    fn check_chain(
        &self,
        ca: &Ca,
        parsed: &ParsedCertificate<'_>,
        leaf: &CertificateDer<'static>,
        intermediates: &[CertificateDer<'static>],
        want: &Want<'_>,
    ) -> Result<(), Fault> {
        let fault = |flaw| Fault { place: self.place.clone(), flaw };
        if self.leaf().is_ca {
            return Err(fault(Flaw::CaAsLeaf { subject: self.leaf().subject.clone() }));
        }
        // The uppermost issuer in the chain: the CA file must have its issuer.
        let top = self.chain.iter().rev().find(|c| !c.is_self_issued()).unwrap_or(self.leaf());
        let roots = ca.roots(want.now, leaf)?;
        if roots.is_empty() {
            return Err(ca.out_of_time(want.now, top).unwrap_or_else(|| fault(ca.unknown(top))));
        }
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(want.now.max(0) as u64));
        let provider = Arc::new(default_provider());
        let algorithms = provider.signature_verification_algorithms.all;
        let mut verdict = verify_server_cert_signed_by_trust_anchor(parsed, &roots, intermediates, now, algorithms);
        if verdict.is_ok() && want.as_client {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier = verifier.map_err(|e| fault(ca.refuses(e.to_string())))?;
            verdict = verifier.verify_client_cert(leaf, intermediates, now).map(|_| ());
        }
        verdict.map_err(|error| match error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                ca.out_of_time(want.now, top).unwrap_or_else(|| fault(ca.unknown(top)))
            }
            rustls::Error::InvalidCertificate(CertificateError::BadSignature) => fault(Flaw::NotSigned {
                subject: top.subject.clone(),
                issuer: top.issuer.clone(),
                ca: ca.place.clone(),
            }),
            other => fault(ca.refuses(other.to_string())),
        })
    }
}

/// The issuing certificates from one PEM file.
///
/// As in Go's pool, any certificate is an anchor; but, as in Go, an expired one verifies nothing, and neither does one that
/// says CA:FALSE, unless it is itself the leaf.
#[derive(Clone, Debug)]
pub struct Ca {
    place: String,
    ders: Vec<CertificateDer<'static>>,
    certificates: Vec<Certificate>,
    digest: String,
}

impl Ca {
    /// Reads a PEM file of one certificate or more.
    ///
    /// # Errors
    /// What is wrong with the file; also that no certificate in it is a CA's or self-signed, for example if a leaf is in its
    /// place.
    pub fn load(path: &Path) -> Result<Self, Fault> {
        Self::parse(path.display().to_string(), &pem::read_file(path)?)
    }

    /// The same from a text with its source.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(place: String, text: &[u8]) -> Result<Self, Fault> {
        let (ders, certificates) = read_certificates(&place, text)?;
        if let [first, ..] = &certificates[..]
            && !certificates.iter().any(|c| c.is_issuer() || c.is_self_issued())
        {
            let subject = first.subject.clone();
            return Err(Fault { place, flaw: Flaw::NoCa { subject } });
        }
        for (der, nth) in ders.iter().zip(1..) {
            let added = RootCertStore::empty().add(der.clone());
            added.map_err(|_| Fault { place: place.clone(), flaw: Flaw::BadCertificate(nth) })?;
        }
        Ok(Self::of(place, ders, certificates))
    }

    pub(super) fn of(place: String, ders: Vec<CertificateDer<'static>>, certificates: Vec<Certificate>) -> Self {
        Self { digest: digest_of(&ders), place, ders, certificates }
    }

    /// When the first of them expires, in seconds since the epoch.
    pub fn not_after(&self) -> i64 {
        self.certificates.iter().map(|c| c.not_after).min().unwrap_or(i64::MIN)
    }

    /// The SHA-256 of all of them, in hex: it changes with the CAs.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Its contents, for rustls' root store.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.ders
    }

    /// Those that verify others at that time, or this leaf because they are this leaf.
    fn roots(&self, now: i64, leaf: &CertificateDer<'static>) -> Result<RootCertStore, Fault> {
        let mut roots = RootCertStore::empty();
        for (der, facts) in self.ders.iter().zip(&self.certificates) {
            if in_time(facts, now).is_ok() && (facts.is_issuer() || der == leaf) {
                roots.add(der.clone()).map_err(|e| self.fault(self.refuses(e.to_string())))?;
            }
        }
        Ok(roots)
    }

    /// Whether the issuer of this certificate is here, but not valid now.
    fn out_of_time(&self, now: i64, of: &Certificate) -> Option<Fault> {
        let issuers = self.certificates.iter().filter(|c| c.subject_der == of.issuer_der);
        let flaw = issuers.map(|c| in_time(c, now)).find_map(Result::err)?;
        Some(self.fault(flaw))
    }

    /// Whether no certificate that this CA issues could be valid for longer than that one.
    pub(super) fn bounds(&self, leaf: &Certificate) -> bool {
        let issuers = self.certificates.iter().filter(|c| c.subject_der == leaf.issuer_der);
        issuers.map(|c| c.not_after).max().is_some_and(|not_after| leaf.not_after >= not_after)
    }

    fn unknown(&self, of: &Certificate) -> Flaw {
        let name = |c: &Certificate| {
            let kind = if c.is_issuer() { "" } else { " (CA:FALSE)" };
            format!("\"{}\"{kind}", c.subject)
        };
        Flaw::UnknownIssuer {
            subject: of.subject.clone(),
            issuer: of.issuer.clone(),
            ca: self.place.clone(),
            holds: self.certificates.iter().map(name).collect(),
        }
    }

    fn refuses(&self, cause: String) -> Flaw {
        Flaw::Chain { ca: self.place.clone(), cause }
    }

    fn fault(&self, flaw: Flaw) -> Fault {
        Fault { place: self.place.clone(), flaw }
    }
}

/// The contents of the first certificate in a PEM file.
///
/// # Errors
/// What is wrong with the file.
pub fn leaf_in(path: &Path) -> Result<Certificate, Fault> {
    let place = path.display().to_string();
    let (_, certificates) = read_certificates(&place, &pem::read_file(path)?)?;
    certificates.into_iter().next().ok_or(Fault { place, flaw: Flaw::NoCertificate { holds_key: false } })
}

/// A time inside the validity, both ends included (RFC 5280, section 4.1.2.5).
pub(super) fn in_time(certificate: &Certificate, now: i64) -> Result<(), Flaw> {
    let subject = || certificate.subject.clone();
    if now > certificate.not_after {
        return Err(Flaw::Expired { subject: subject(), on: certificate.not_after });
    }
    if now < certificate.not_before {
        return Err(Flaw::NotYetValid { subject: subject(), from: certificate.not_before, now });
    }
    Ok(())
}

pub(super) type Chain = (Vec<CertificateDer<'static>>, Vec<Certificate>);

/// The certificates in a text, at least one, each parsed.
pub(super) fn read_certificates(place: &str, text: &[u8]) -> Result<Chain, Fault> {
    let ders = pem::sections(place, text)?.certificates(place)?;
    let mut facts = Vec::with_capacity(ders.len());
    for (der, nth) in ders.iter().zip(1..) {
        let fault = || Fault { place: place.to_owned(), flaw: Flaw::BadCertificate(nth) };
        facts.push(Certificate::read(der).ok_or_else(fault)?);
    }
    Ok((ders, facts))
}

/// The private key in a text.
pub(super) fn read_key(place: &str, text: &[u8]) -> Result<Arc<dyn SigningKey>, Fault> {
    let der = pem::sections(place, text)?.key(place)?;
    any_supported_type(&der).map_err(|_| Fault { place: place.to_owned(), flaw: Flaw::BadKey })
}

pub(super) fn is_key_of(key: &dyn SigningKey, certificate: &Certificate) -> bool {
    key.public_key().is_some_and(|spki| spki.as_ref() == certificate.spki)
}

fn digest_of(ders: &[CertificateDer<'_>]) -> String {
    let all: Vec<u8> = ders.iter().flat_map(|der| der.iter().copied()).collect();
    hex(digest(&SHA256, &all).as_ref())
}
