//! What is wrong with a certificate or a key: one line each, with its place and the remedy. None shows a key's bytes.

use std::path::Path;
use std::{fmt, io};

use crate::util::clock::rfc3339;
use crate::util::file;

/// A fault, and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// A path, or another source such as `ssm:/name`.
    pub place: String,
    pub flaw: Flaw,
}

/// What is wrong. Certificates are named by their subject; times are seconds since the epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Flaw {
    Missing,
    /// The reason, and the remedy.
    Unreadable(String),
    Unwritable(String),
    Empty,
    /// DER instead of PEM, of a certificate or else of a key.
    Der {
        certificate: bool,
    },
    /// PEM that ends early, or whose base64 is damaged. The cause quotes nothing.
    Garbled(&'static str),
    NoCertificate {
        holds_key: bool,
    },
    NoKey {
        holds_certificate: bool,
    },
    /// The nth certificate, counted from one, can't be parsed.
    BadCertificate(usize),
    Encrypted,
    BadKey,
    /// The key does not belong to the certificate in that file.
    Mismatch {
        certificate: String,
        subject: String,
    },
    /// The key belongs to the nth certificate, counted from one.
    WrongOrder {
        first: String,
        leaf: usize,
    },
    Expired {
        subject: String,
        on: i64,
    },
    NotYetValid {
        subject: String,
        from: i64,
        now: i64,
    },
    /// A CA's certificate, where a leaf is required.
    CaAsLeaf {
        subject: String,
    },
    /// No certificate in the CA file issued it.
    UnknownIssuer {
        subject: String,
        issuer: String,
        ca: String,
        holds: Vec<String>,
    },
    /// A CA of the right name, but with another key.
    NotSigned {
        subject: String,
        issuer: String,
        ca: String,
    },
    /// webpki's other objections to the chain.
    Chain {
        ca: String,
        cause: String,
    },
    NotFor {
        name: String,
        names: Vec<String>,
    },
    NoServerAuth {
        subject: String,
    },
    NoClientAuth {
        subject: String,
    },
    /// No certificate of this CA file can be an issuer.
    NoCa {
        subject: String,
    },
    /// A certificate that is to sign others is not a CA's.
    NotCa {
        subject: String,
    },
    NoCertSign {
        subject: String,
    },
    /// A name for which no certificate can be issued.
    BadName(String),
    /// The CA can't issue this leaf.
    Unmintable(String),
    /// aws-lc failed: no memory, no randomness.
    Crypto,
}

impl Fault {
    /// Why that file can't be read.
    pub fn unreadable(path: &Path, error: &io::Error) -> Self {
        let uid = nix::unistd::geteuid();
        let flaw = match error.kind() {
            io::ErrorKind::NotFound => Flaw::Missing,
            _ => Flaw::Unreadable(explained(error, path, format!("make it a file that uid {uid} may read"))),
        };
        Self { place: path.display().to_string(), flaw }
    }

    /// Why that file can't be written.
    pub fn unwritable(path: &Path, error: &io::Error) -> Self {
        let uid = nix::unistd::geteuid();
        let cause = explained(error, path, format!("uid {uid} must be able to"));
        Self { place: path.display().to_string(), flaw: Flaw::Unwritable(cause) }
    }
}

fn explained(error: &io::Error, path: &Path, otherwise: String) -> String {
    let way_out = Some(error).filter(|error| file::may_pass(error)).and_then(|error| file::way_out(error, path));
    format!("{error}; {}", way_out.unwrap_or(otherwise))
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        write!(f, "{place}: ")?;
        match &self.flaw {
            Flaw::Missing => write!(f, "the file does not exist; put it there"),
            Flaw::Unreadable(cause) => write!(f, "can't be read: {cause}"),
            Flaw::Unwritable(cause) => write!(f, "can't be written: {cause}"),
            Flaw::Empty => write!(f, "is empty; write it again"),
            Flaw::Der { certificate } => {
                let tool = if *certificate { "x509" } else { "pkey" };
                write!(f, "is DER, not PEM; convert it: openssl {tool} -inform der -in {place} -out {place}.pem")
            }
            Flaw::Garbled(cause) => write!(f, "its PEM is damaged: {cause}; copy it again"),
            Flaw::NoCertificate { holds_key: true } => {
                write!(f, "holds a private key, no certificate; are the certificate's and the key's file swapped?")
            }
            Flaw::NoCertificate { holds_key: false } => {
                write!(f, "holds no certificate; it must be PEM with a line -----BEGIN CERTIFICATE-----")
            }
            Flaw::NoKey { holds_certificate: true } => {
                write!(f, "holds a certificate, no private key; are the certificate's and the key's file swapped?")
            }
            Flaw::NoKey { holds_certificate: false } => {
                write!(f, "holds no private key; it must be PEM with a line -----BEGIN PRIVATE KEY-----")
            }
            Flaw::BadCertificate(nth) => {
                write!(f, "certificate {nth} in it can't be parsed; openssl x509 -text -in {place} may tell more")
            }
            Flaw::Encrypted => {
                write!(
                    f,
                    "the private key is encrypted, and there is no one to enter its passphrase; decrypt it: openssl pkey"
                )
            }
            Flaw::BadKey => write!(
                f,
                "the private key can't be used; it must be RSA of 2048 bits or more, ECDSA P-256, P-384, P-521, or \
                 Ed25519"
            ),
            Flaw::Mismatch { certificate, subject } => {
                write!(f, "is not the key of \"{subject}\" in {certificate}; put two there that belong together")
            }
            Flaw::WrongOrder { first, leaf } => write!(
                f,
                "the first certificate is \"{first}\", but the key belongs to certificate {leaf}; put the leaf first, its \
                 issuers after it"
            ),
            Flaw::Expired { subject, on } => write!(f, "\"{subject}\" expired on {}; replace it", rfc3339(*on)),
            Flaw::NotYetValid { subject, from, now } => write!(
                f,
                "\"{subject}\" is valid from {} on, and here it is {}; is the clock right?",
                rfc3339(*from),
                rfc3339(*now)
            ),
            Flaw::CaAsLeaf { subject } => {
                write!(f, "\"{subject}\" is a CA's certificate (CA:TRUE); use one that this CA issued (CA:FALSE)")
            }
            Flaw::UnknownIssuer { subject, issuer, ca, holds } => write!(
                f,
                "\"{subject}\" is issued by \"{issuer}\", but {ca} holds {}; add the issuers between to the certificate's \
                 file, or use the CA's own certificate",
                list(holds)
            ),
            Flaw::NotSigned { subject, issuer, ca } => write!(
                f,
                "\"{subject}\" names \"{issuer}\" as its issuer, but the key of that name in {ca} didn't sign it; was the CA \
                 made anew?"
            ),
            Flaw::Chain { ca, cause } => write!(f, "doesn't verify against {ca}: {cause}; issue it anew"),
            Flaw::NotFor { name, names } => write!(
                f,
                "is not valid for {name}, where this node is reached; it has {}; issue it anew with {name} as a subject \
                 alternative name",
                list(names)
            ),
            Flaw::NoServerAuth { subject } => write!(
                f,
                "\"{subject}\" is not for servers; issue it anew with extendedKeyUsage = serverAuth, clientAuth"
            ),
            Flaw::NoClientAuth { subject } => write!(
                f,
                "\"{subject}\" is not for clients, and etcd is its own client with it where client certificates are demanded \
                 (every /v3 call would be a 503); issue it anew with extendedKeyUsage = serverAuth, clientAuth"
            ),
            Flaw::NoCa { subject } => {
                write!(f, "holds no CA's certificate, only \"{subject}\" (CA:FALSE); use that of its issuer")
            }
            Flaw::NotCa { subject } => {
                write!(f, "\"{subject}\" is no CA's certificate (CA:FALSE); use one with basicConstraints = CA:TRUE")
            }
            Flaw::NoCertSign { subject } => {
                write!(f, "\"{subject}\" may not sign certificates; its keyUsage must have keyCertSign")
            }
            Flaw::BadName(name) => {
                write!(f, "no certificate can be made for {name:?}; a DNS name or an address is wanted")
            }
            Flaw::Unmintable(cause) => write!(f, "can't issue a certificate for this node: {cause}; use another CA"),
            Flaw::Crypto => {
                write!(f, "the cryptographic library failed; its reasons are memory and the kernel's randomness")
            }
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
