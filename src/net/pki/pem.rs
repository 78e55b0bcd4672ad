//! PEM (RFC 7468): reads certificates, keys and revocation lists from a file, and writes them. The only reader of PEM.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::certificate::Certificate;
use super::fault::{Fault, Flaw};
use crate::util::file;

/// The contents of a PEM text, without other sections. Of several keys the first counts, as in Go.
pub(crate) struct Contents {
    pub certificates: Vec<CertificateDer<'static>>,
    pub revocations: Vec<CertificateRevocationListDer<'static>>,
    pub key: Option<PrivateKeyDer<'static>>,
    encrypted: bool,
}

/// A whole file. Blocks; see [`fetch`].
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, Fault> {
    file::read(path).map_err(|error| Fault::unreadable(path, &error))
}

/// The contents of a file, read on another thread.
///
/// # Errors
/// The file can't be read in time, or is not PEM.
pub(crate) async fn fetch(path: &Path) -> Result<Contents, Fault> {
    let text = file::fetch(path).await.map_err(|error| Fault::unreadable(path, &error))?;
    sections(&path.display().to_string(), &text)
}

/// The sections of a text from `place`.
pub(super) fn sections(place: &str, text: &[u8]) -> Result<Contents, Fault> {
    let fault = |flaw| Fault { place: place.to_owned(), flaw };
    if text.trim_ascii().is_empty() {
        return Err(fault(Flaw::Empty));
    }
    if Certificate::read(text).is_some() {
        return Err(fault(Flaw::Der { certificate: true }));
    }
    if PrivateKeyDer::try_from(text).is_ok() {
        return Err(fault(Flaw::Der { certificate: false }));
    }
    let holds = |words: &[u8]| text.windows(words.len()).any(|window| window == words);
    let encrypted = holds(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds(b"Proc-Type: 4,ENCRYPTED");
    let mut contents = Contents { certificates: Vec::new(), revocations: Vec::new(), key: None, encrypted };
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = match section {
            // The headers of OpenSSL's older encryption are not base64.
            Err(_) if encrypted => break,
            other => other.map_err(|e| fault(Flaw::Garbled(damage(&e))))?,
        };
        match kind {
            SectionKind::Certificate => contents.certificates.push(der.into()),
            SectionKind::Crl => contents.revocations.push(der.into()),
            _ => contents.key = contents.key.or_else(|| PrivateKeyDer::from_pem(kind, der)),
        }
    }
    Ok(contents)
}

/// Our own text: the library quotes lines, and a key that lost its line breaks is one line.
fn damage(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } | pem::Error::IllegalSectionStart { .. } => {
            "a BEGIN or END line is missing, or isn't on a line of its own"
        }
        pem::Error::Base64Decode(_) => "what is between BEGIN and END is not base64",
        _ => "it can't be taken apart",
    }
}

impl Contents {
    /// The certificates; at least one is required.
    pub fn certificates(self, place: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
        if self.certificates.is_empty() {
            let holds_key = self.key.is_some() || self.encrypted;
            return Err(Fault { place: place.to_owned(), flaw: Flaw::NoCertificate { holds_key } });
        }
        Ok(self.certificates)
    }

    /// The private key.
    pub fn key(self, place: &str) -> Result<PrivateKeyDer<'static>, Fault> {
        let flaw = match self.key {
            Some(key) => return Ok(key),
            None if self.encrypted => Flaw::Encrypted,
            None => Flaw::NoKey { holds_certificate: !self.certificates.is_empty() },
        };
        Err(Fault { place: place.to_owned(), flaw })
    }
}

/// One section of PEM.
pub(super) fn write(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    // 48 octets fill a line of 64 characters.
    for line in der.chunks(48) {
        text.push_str(&STANDARD.encode(line));
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}
