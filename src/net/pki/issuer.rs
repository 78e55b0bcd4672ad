//! Leaves, issued by a CA whose key we have; and one that no CA verifies.
//!
//! The DER is our own (`der.rs`): rcgen, as of 0.14, rebuilds the issuer's name, and loses all but the last of two like parts
//! (`DC=example, DC=com`), so that no chain would verify; with x509-parser it also adds 240 KiB to the executable.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, alg_id};
use rustls::sign::{CertifiedKey, SigningKey};

use super::certificate::{self, Certificate};
use super::der;
use super::fault::{Fault, Flaw};
use super::files::{Ca, Pair, Want, in_time, is_key_of, read_certificates, read_key};
use super::pem;
use crate::util::clock;

/// A clock that is behind ours by up to this accepts a new leaf.
const BACKDATED_SECONDS: i64 = 3600;
/// A leaf is backdated by at most this part of its validity, however short that is.
const BACKDATED_PART: i64 = 10;
/// For an unverified certificate in memory: longer than any process runs.
const EPHEMERAL_SECONDS: i64 = 10 * 365 * 86400;

/// A CA and its key, which stays in memory.
pub struct Issuer {
    place: String,
    certificate: Certificate,
    /// The intermediate certificates that must follow a leaf in its file, so that a verifier with only the root can build the
    /// chain.
    intermediates: Vec<CertificateDer<'static>>,
    ca: Ca,
    key: Arc<dyn SigningKey>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("place", &self.place).finish_non_exhaustive()
    }
}

/// An issued certificate.
#[derive(Debug)]
pub struct Leaf {
    /// The leaf, followed by its issuers, unless a root issued it.
    pub pem: String,
    pub certificate: Certificate,
}

impl Issuer {
    /// The CA in a PEM file (of several certificates the one that the key belongs to), and its key, as PEM from `key_place`.
    /// RSA from 2048 bits on, ECDSA P-256, P-384, P-521 and Ed25519, in PKCS#8, SEC 1 or PKCS#1.
    ///
    /// # Errors
    /// Why it can't sign, at the time `now` (seconds since the epoch).
    pub fn load(certificate: &Path, key_pem: &str, key_place: &str, now: i64) -> Result<Self, Fault> {
        Self::parse((certificate.display().to_string(), &pem::read_file(certificate)?), (key_place, key_pem), now)
    }

    /// The same from texts, each with its source.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(
        (place, certificate): (String, &[u8]),
        (key_place, key_pem): (&str, &str),
        now: i64,
    ) -> Result<Self, Fault> {
        let (ders, certificates) = read_certificates(&place, certificate)?;
        let key = read_key(key_place, key_pem.as_bytes())?;
        let Some(own) = certificates.iter().position(|c| is_key_of(&*key, c)) else {
            let subject = certificates.into_iter().next().map(|c| c.subject).unwrap_or_default();
            return Err(Fault { place: key_place.to_owned(), flaw: Flaw::Mismatch { certificate: place, subject } });
        };
        let (certificate, der) = (certificates[own].clone(), ders[own].clone());
        let flaw = match &certificate {
            c if !c.is_ca => Err(Flaw::NotCa { subject: c.subject.clone() }),
            c if !c.may_sign => Err(Flaw::NoCertSign { subject: c.subject.clone() }),
            c => in_time(c, now),
        };
        flaw.map_err(|flaw| Fault { place: place.clone(), flaw })?;
        let mut intermediates = Vec::new();
        if !certificate.is_self_issued() {
            intermediates.push(der.clone());
            let others = ders.into_iter().zip(&certificates).enumerate();
            intermediates
                .extend(others.filter(|(n, (_, c))| *n != own && !c.is_self_issued()).map(|(_, (der, _))| der));
        }
        let ca = Ca::of(place.clone(), vec![der], vec![certificate.clone()]);
        Ok(Self { place, certificate, intermediates, ca, key })
    }

    /// The CA that signs: a leaf is verified against it.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// A leaf for that key, valid for those DNS names and addresses, for servers and clients; for `life_seconds` from `now` on,
    /// but never for longer than the CA.
    ///
    /// # Errors
    /// A name is invalid; the CA has expired, or its own limits (name constraints) forbid such a leaf.
    pub fn mint(
        &self,
        key: Arc<dyn SigningKey>,
        names: &[String],
        organization: &str,
        now: i64,
        life_seconds: i64,
    ) -> Result<Leaf, Fault> {
        let fault = |flaw| Fault { place: self.place.clone(), flaw };
        in_time(&self.certificate, now).map_err(fault)?;
        let not_after = now.saturating_add(life_seconds).min(self.certificate.not_after);
        let backdated = BACKDATED_SECONDS.min((not_after - now) / BACKDATED_PART);
        let body = Body {
            issuer: &self.certificate.subject_der,
            issuer_key_id: self.certificate.key_id.as_deref(),
            organization,
            names: &normal(names).map_err(fault)?.into_iter().collect::<Vec<_>>(),
            validity: ((now - backdated).max(self.certificate.not_before), not_after),
        };
        let der = body.signed(&*key, &*self.key).ok_or_else(|| fault(Flaw::Crypto))?;
        let certificate = Certificate::read(&der).ok_or_else(|| fault(Flaw::Crypto))?;
        let chain = [std::slice::from_ref(&der), &self.intermediates].concat();
        // A leaf that a peer would refuse is refused here: the CA may have limits that only show in what it issues.
        let named: Vec<String> = body.names.iter().filter(|name| !name.starts_with("*.")).cloned().collect();
        let want = Want { now, ca: Some(&self.ca), names: &named, as_client: true };
        let pair = Pair::of(self.place.clone(), vec![der], vec![certificate.clone()], key);
        pair.check(&want).map_err(|refused| match refused.flaw {
            Flaw::Chain { cause, .. } => fault(Flaw::Unmintable(cause)),
            flaw => fault(flaw),
        })?;
        Ok(Leaf { pem: chain.iter().map(|der| pem::write("CERTIFICATE", der)).collect(), certificate })
    }
}

/// A certificate that no CA verifies, and its key, in memory only: it encrypts, but proves nothing.
///
/// # Errors
/// The cryptographic library fails.
pub fn ephemeral(now: i64) -> Result<CertifiedKey, Fault> {
    let (_, key) = new_key()?;
    let (name, validity) = ("etcd-muster", (now - BACKDATED_SECONDS, now.saturating_add(EPHEMERAL_SECONDS)));
    let body = Body { issuer: &distinguished(name), issuer_key_id: None, organization: name, names: &[], validity };
    let der = body.signed(&*key, &*key).ok_or_else(crypto)?;
    Ok(CertifiedKey::new(vec![der], key))
}

/// A new P-256 key, as PKCS#8 and ready to sign.
pub(super) fn new_key() -> Result<(PrivatePkcs8KeyDer<'static>, Arc<dyn SigningKey>), Fault> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    let pkcs8 = PrivatePkcs8KeyDer::from(document.map_err(|_| crypto())?.as_ref().to_vec());
    let key = any_supported_type(&PrivateKeyDer::Pkcs8(pkcs8.clone_key())).map_err(|_| crypto())?;
    Ok((pkcs8, key))
}

fn crypto() -> Fault {
    Fault { place: "a new key".to_owned(), flaw: Flaw::Crypto }
}

/// Names in the form for a certificate, each once: lower case, no dot at the end, addresses in their shortest form.
pub(super) fn normal(names: &[String]) -> Result<BTreeSet<String>, Flaw> {
    let normal = |name: &String| match name.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => {
            let dns = name.trim_end_matches('.').to_ascii_lowercase();
            match ServerName::try_from(dns.strip_prefix("*.").unwrap_or(&dns)) {
                Ok(ServerName::DnsName(_)) => Ok(dns),
                _ => Err(Flaw::BadName(name.clone())),
            }
        }
    };
    names.iter().map(normal).collect()
}

/// What a CA signs.
struct Body<'a> {
    /// The DER of its subject.
    issuer: &'a [u8],
    issuer_key_id: Option<&'a [u8]>,
    organization: &'a str,
    names: &'a [String],
    /// From and to, in seconds since the epoch.
    validity: (i64, i64),
}

impl Body<'_> {
    fn signed(&self, key: &dyn SigningKey, issuer: &dyn SigningKey) -> Option<CertificateDer<'static>> {
        let signer = issuer.choose_scheme(&[
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PKCS1_SHA256,
        ])?;
        let algorithm = match signer.scheme() {
            SignatureScheme::ECDSA_NISTP256_SHA256 => alg_id::ECDSA_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384 => alg_id::ECDSA_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512 => alg_id::ECDSA_SHA512,
            SignatureScheme::ED25519 => alg_id::ED25519,
            _ => alg_id::RSA_PKCS1_SHA256,
        };
        let algorithm = der::value(der::SEQUENCE, algorithm.as_ref());
        let (not_before, not_after) = self.validity;
        let tbs = der::holding(
            der::SEQUENCE,
            &[
                // Version 3.
                der::value(der::constructed(0), &der::value(der::INTEGER, &[2])),
                der::value(der::INTEGER, &serial()),
                algorithm.clone(),
                self.issuer.to_vec(),
                der::holding(der::SEQUENCE, &[der::time(not_before)?, der::time(not_after)?]),
                distinguished(self.organization),
                key.public_key()?.as_ref().to_vec(),
                der::value(der::constructed(3), &self.extensions()),
            ],
        );
        let signature = signer.sign(&tbs).ok()?;
        Some(der::holding(der::SEQUENCE, &[tbs, algorithm, der::bit_string(&signature)]).into())
    }

    fn extensions(&self) -> Vec<u8> {
        let oid = |id: &[u8]| der::value(der::OID, id);
        // CA:FALSE is the default, and so an empty sequence. digitalSignature is bit 0; 7 bits of the octet are unused.
        let mut extensions = vec![
            extension(certificate::BASIC_CONSTRAINTS, Criticality::Critical, &der::value(der::SEQUENCE, &[])),
            extension(certificate::KEY_USAGE, Criticality::Critical, &der::value(der::BIT_STRING, &[7, 0x80])),
            extension(
                certificate::EXTENDED_KEY_USAGE,
                Criticality::MayBeIgnored,
                &der::holding(der::SEQUENCE, &[oid(certificate::SERVER_AUTH), oid(certificate::CLIENT_AUTH)]),
            ),
        ];
        if !self.names.is_empty() {
            let name = |name: &String| match name.parse() {
                Ok(IpAddr::V4(address)) => der::value(certificate::IP_ADDRESS, &address.octets()),
                Ok(IpAddr::V6(address)) => der::value(certificate::IP_ADDRESS, &address.octets()),
                Err(_) => der::value(certificate::DNS_NAME, name.as_bytes()),
            };
            let names: Vec<_> = self.names.iter().map(name).collect();
            extensions.push(extension(
                certificate::ALT_NAME,
                Criticality::MayBeIgnored,
                &der::holding(der::SEQUENCE, &names),
            ));
        }
        if let Some(id) = self.issuer_key_id {
            let id = der::value(der::SEQUENCE, &der::value(der::primitive(0), id));
            extensions.push(extension(certificate::AUTHORITY_KEY_ID, Criticality::MayBeIgnored, &id));
        }
        der::holding(der::SEQUENCE, &extensions)
    }
}

/// Whether who doesn't know an extension must refuse the certificate (RFC 5280, section 4.2). Not critical is the default, and so left out.
enum Criticality {
    Critical,
    MayBeIgnored,
}

fn extension(id: &[u8], criticality: Criticality, value: &[u8]) -> Vec<u8> {
    let critical = match criticality {
        Criticality::Critical => der::value(der::BOOLEAN, &[0xff]),
        Criticality::MayBeIgnored => Vec::new(),
    };
    der::holding(der::SEQUENCE, &[der::value(der::OID, id), critical, der::value(der::OCTET_STRING, value)])
}

/// A name without a common name: with authentication enabled, etcd's gateway accepts no call with a certificate that has one
/// (embed/serve.go: it can't pass the name on as a user).
fn distinguished(organization: &str) -> Vec<u8> {
    let value = der::value(der::UTF8_STRING, organization.as_bytes());
    let attribute = der::holding(der::SEQUENCE, &[der::value(der::OID, certificate::ORGANIZATION), value]);
    der::value(der::SEQUENCE, &der::value(der::SET, &attribute))
}

/// 16 random octets, positive and without a leading zero (RFC 5280, section 4.1.2.2).
fn serial() -> [u8; 16] {
    let mut serial = [clock::random().to_be_bytes(), clock::random().to_be_bytes()].concat();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial.try_into().unwrap_or([0x40; 16])
}
