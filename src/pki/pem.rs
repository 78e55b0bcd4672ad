//! PEM (RFC 7468): certificates and keys out of a file, and back.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::Certificate;
use super::fault::{Fault, Flaw};

/// Far above any chain, far below what would hurt.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a PEM text holds, other sections left out. Of keys the first counts, as in Go.
pub(super) struct Contents {
    pub certificates: Vec<CertificateDer<'static>>,
    pub key: Option<PrivateKeyDer<'static>>,
    encrypted: bool,
}

/// A whole file.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, Fault> {
    let fault = |flaw| Fault { place: path.display().to_string(), flaw };
    let read = || {
        // Looked at before it is opened: to open a pipe would wait for its writer.
        if !path.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other("it is larger than 1 MiB"));
        }
        Ok(bytes)
    };
    read().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => fault(Flaw::Missing),
        _ => fault(Flaw::Unreadable(error.to_string())),
    })
}

/// The sections of a text that was had from `place`.
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
    let mut contents = Contents { certificates: Vec::new(), key: None, encrypted };
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = match section {
            // The headers of OpenSSL's older encryption aren't base64.
            Err(_) if encrypted => break,
            other => other.map_err(|e| fault(Flaw::Garbled(damage(&e))))?,
        };
        match kind {
            SectionKind::Certificate => contents.certificates.push(der.into()),
            _ => contents.key = contents.key.or_else(|| PrivateKeyDer::from_pem(kind, der)),
        }
    }
    Ok(contents)
}

/// In words of ours: the library quotes lines, and a key whose line breaks were lost is one line.
fn damage(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } | pem::Error::IllegalSectionStart { .. } => {
            "a BEGIN or END line is missing, or isn't on a line of its own"
        }
        pem::Error::Base64Decode(_) => "what is between BEGIN and END is no base64",
        _ => "it can't be taken apart",
    }
}

impl Contents {
    /// The certificates, of which there must be one.
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
        for group in line.chunks(3) {
            let octet = |n: usize| u32::from(group.get(n).copied().unwrap_or(0));
            let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
            for n in 0..4 {
                text.push(if n > group.len() { '=' } else { sextet(bits >> (18 - 6 * n) & 0x3f) });
            }
        }
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}

/// RFC 4648, table 1.
fn sextet(bits: u32) -> char {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char::from(ALPHABET[bits as usize])
}
