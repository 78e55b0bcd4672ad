//! The contents of a certificate (RFC 5280, section 4.1), for messages and for the decisions that webpki leaves to us.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::der::{self, Reader};

// Object identifiers in DER (RFC 5280, section 4.2 and appendix A).
pub(super) const COMMON_NAME: &[u8] = &[0x55, 4, 3];
pub(super) const ORGANIZATION: &[u8] = &[0x55, 4, 10];
pub(super) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 14];
pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub(super) const ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
pub(super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub(super) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 35];
pub(super) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
/// id-kp-serverAuth, section 4.2.1.12.
pub(super) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// id-kp-clientAuth.
pub(super) const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// GeneralName's choices, section 4.2.1.6.
pub(super) const DNS_NAME: u8 = der::primitive(2);
pub(super) const IP_ADDRESS: u8 = der::primitive(7);

/// keyUsage's bit for signing certificates (keyCertSign, bit 5), in the first octet.
const KEY_CERT_SIGN: u8 = 0x80 >> 5;

/// The facts of one certificate, as it states them. Nothing here is verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch, inclusive.
    pub not_after: i64,
    /// In hex, as openssl prints it.
    pub serial: String,
    /// The subject's common name; without one, its other parts; "serial 1f…" if it is empty. Safe for a line of the log.
    pub subject: String,
    /// Only the subject's common name.
    pub common_name: Option<String>,
    /// The issuer's, likewise.
    pub issuer: String,
    /// The DNS names and addresses it is valid for, as written.
    pub names: Vec<String>,
    pub is_ca: bool,
    /// Valid for a server: no extended key usage at all, or serverAuth among them.
    pub server_auth: bool,
    /// Valid for a client, likewise.
    pub client_auth: bool,
    /// No key usage at all, or keyCertSign among them.
    pub may_sign: bool,
    /// Go treats a certificate older than version 3 as a CA, because such a certificate can't say.
    pub(super) is_old: bool,
    /// The DER of its subject, byte for byte: an issuer is matched by it.
    pub(super) subject_der: Vec<u8>,
    pub(super) issuer_der: Vec<u8>,
    pub(super) spki: Vec<u8>,
    pub(super) key_id: Option<Vec<u8>>,
}

impl Certificate {
    /// Parses a certificate's DER; `None`: it is not a certificate.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut outside = Reader(bytes);
        let mut signed = outside.inside(der::SEQUENCE)?;
        if !outside.is_empty() {
            return None;
        }
        let mut tbs = signed.inside(der::SEQUENCE)?;
        let version = tbs.optional(der::constructed(0))?;
        let serial = tbs.value(der::INTEGER)?.content;
        tbs.value(der::SEQUENCE)?;
        let issuer_der = tbs.value(der::SEQUENCE)?;
        let mut validity = tbs.inside(der::SEQUENCE)?;
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let subject_der = tbs.value(der::SEQUENCE)?;
        let spki = tbs.value(der::SEQUENCE)?;
        let serial = hex(serial);
        let mut this = Self {
            not_before,
            not_after,
            subject: shown_name(subject_der.content).unwrap_or_else(|| format!("serial {serial}")),
            common_name: common_name(subject_der.content),
            issuer: shown_name(issuer_der.content).unwrap_or_else(|| "(no name)".to_owned()),
            serial,
            names: Vec::new(),
            is_ca: false,
            server_auth: true,
            client_auth: true,
            may_sign: true,
            is_old: version.is_none_or(|version| version.content != [der::INTEGER, 1, 2]),
            subject_der: subject_der.whole.to_vec(),
            issuer_der: issuer_der.whole.to_vec(),
            spki: spki.whole.to_vec(),
            key_id: None,
        };
        // issuerUniqueID and subjectUniqueID, which are not used in practice.
        tbs.optional(der::primitive(1))?;
        tbs.optional(der::primitive(2))?;
        if let Some(extensions) = tbs.optional(der::constructed(3))? {
            let mut extensions = Reader(extensions.content).inside(der::SEQUENCE)?;
            while !extensions.is_empty() {
                let mut extension = extensions.inside(der::SEQUENCE)?;
                let id = extension.value(der::OID)?.content;
                extension.optional(der::BOOLEAN)?;
                this.extend(id, Reader(extension.value(der::OCTET_STRING)?.content))?;
            }
        }
        // A field that can't be parsed is not absent: it may have more meaning.
        tbs.is_empty().then_some(this)
    }

    fn extend(&mut self, id: &[u8], mut value: Reader<'_>) -> Option<()> {
        match id {
            ALT_NAME => {
                let mut names = value.inside(der::SEQUENCE)?;
                while !names.is_empty() {
                    let name = names.any()?;
                    self.names.extend(match name.tag {
                        DNS_NAME => Some(printable(&String::from_utf8_lossy(name.content))),
                        IP_ADDRESS => address(name.content).map(|a| a.to_string()),
                        _ => None,
                    });
                }
            }
            BASIC_CONSTRAINTS => {
                let mut constraints = value.inside(der::SEQUENCE)?;
                let ca = constraints.optional(der::BOOLEAN)?;
                self.is_ca = ca.is_some_and(|ca| ca.content != [0]);
                // pathLenConstraint, which webpki enforces.
                constraints.optional(der::INTEGER)?;
                return constraints.is_empty().then_some(());
            }
            KEY_USAGE => {
                // The first octet counts the unused bits.
                let bits = value.value(der::BIT_STRING)?.content.get(1);
                self.may_sign = bits.is_some_and(|bits| bits & KEY_CERT_SIGN != 0);
            }
            EXTENDED_KEY_USAGE => {
                let mut usages = value.inside(der::SEQUENCE)?;
                (self.server_auth, self.client_auth) = (false, false);
                while !usages.is_empty() {
                    let usage = usages.value(der::OID)?.content;
                    self.server_auth |= usage == SERVER_AUTH;
                    self.client_auth |= usage == CLIENT_AUTH;
                }
            }
            SUBJECT_KEY_ID => self.key_id = Some(value.value(der::OCTET_STRING)?.content.to_vec()),
            _ => {}
        }
        Some(())
    }

    /// It names itself as its issuer.
    pub fn is_self_issued(&self) -> bool {
        self.subject_der == self.issuer_der
    }

    /// Go, and so etcd, accepts it as an issuer.
    pub(super) fn is_issuer(&self) -> bool {
        self.is_ca || self.is_old
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    }
}

/// The common name in a distinguished name; without one, all its parts.
fn shown_name(name: &[u8]) -> Option<String> {
    let parts = parts(name)?;
    let all = || parts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", ");
    let common = parts.iter().find(|(id, _)| *id == COMMON_NAME).map(|(_, text)| text.clone());
    common.or_else(|| (!parts.is_empty()).then(all))
}

fn common_name(name: &[u8]) -> Option<String> {
    parts(name)?.into_iter().find(|(id, _)| *id == COMMON_NAME).map(|(_, text)| text)
}

/// The attributes of a distinguished name, safe for a line of the log.
fn parts(name: &[u8]) -> Option<Vec<(&[u8], String)>> {
    let (mut parts, mut sets) = (Vec::new(), Reader(name));
    while let Some(mut set) = sets.inside(der::SET) {
        while let Some(mut attribute) = set.inside(der::SEQUENCE) {
            let (id, value) = (attribute.value(der::OID)?.content, attribute.any()?);
            let text = match value.tag {
                der::BMP_STRING => {
                    let units = value.content.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
                }
                _ => String::from_utf8_lossy(value.content).into_owned(),
            };
            parts.push((id, printable(&text)));
        }
    }
    Some(parts)
}

/// On one line, whatever text is in it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
