//! An operator's certificate, key and CA files, as PEM and as DER in PEM: whatever is in them, no panic. A chain that passes is
//! one that the CA made: never under an unrelated CA of the same name, and under its own only with the very leaf it signed. A CA
//! file vouches for our leaf only if it holds the CA's key. What is said of a key never quotes it.
#![cfg_attr(fuzzing, no_main)]

use etcd_muster::net::pki::{Ca, Fault, Flaw, Issuer, Pair, Want};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| holds(data));

const CA: &[u8] = include_bytes!("../fixtures/ca.pem");
const CA_KEY: &str = include_str!("../fixtures/ca.key");
/// Another CA, with the same name.
const UNRELATED: &[u8] = include_bytes!("../fixtures/unrelated.pem");
const NODE: &[u8] = include_bytes!("../fixtures/node.pem");
/// For the same key, by way of an intermediate.
const CHAIN: &[u8] = include_bytes!("../fixtures/chain.pem");
const NODE_KEY: &[u8] = include_bytes!("../fixtures/node.key");
/// 2027-01-15T08:00:00Z: all of them are valid then.
const NOW: i64 = 1_800_000_000;

pub fn holds(data: &[u8]) {
    certificate(data);
    certificate(&in_pem(data));
    key(data);
    ca(data);
    ca(&in_pem(data));
    issuer(data);
    issuer(&in_pem(data));
}

fn certificate(text: &[u8]) {
    let pair = match pair(text, NODE_KEY) {
        Ok(pair) => pair,
        Err(fault) => return one_line(&fault),
    };
    passes(&pair, UNRELATED).expect_err("nothing here is signed by it");
    match passes(&pair, CA) {
        Err(fault) => one_line(&fault),
        Ok(()) => {
            let certified = pair.certified();
            assert!([NODE, CHAIN].map(first_of).contains(&certified.cert[0]), "the CA didn't sign this");
        }
    }
    // Whatever it is for, it must not stop anybody.
    let names = pair.leaf().names.clone();
    _ = pair.check(&Want { now: NOW, ca: None, names: &names, as_client: true }).map_err(|fault| one_line(&fault));
}

fn key(text: &[u8]) {
    let fault = match pair(NODE, text) {
        Ok(_) => return,
        Err(fault) => fault,
    };
    one_line(&fault);
    match fault.flaw {
        Flaw::Empty | Flaw::Der { .. } | Flaw::Garbled(_) | Flaw::NoKey { .. } | Flaw::Encrypted | Flaw::BadKey => {}
        Flaw::Mismatch { certificate, subject } => {
            assert_eq!((certificate.as_str(), subject.as_str()), ("crt", "node"))
        }
        other => panic!("more is said of a key than may be: {other:?}"),
    }
}

fn ca(text: &[u8]) {
    let ca = match Ca::parse("ca".to_owned(), text) {
        Ok(ca) => ca,
        Err(fault) => return one_line(&fault),
    };
    let node = pair(NODE, NODE_KEY).expect("a good pair");
    match node.check(&Want { now: NOW, ca: Some(&ca), names: &[], as_client: true }) {
        Err(fault) => one_line(&fault),
        Ok(()) => {
            let holds_key = |der: &CertificateDer<'_>| {
                let (its, ours) = (spki(der), spki(&first_of(CA)));
                its.is_some() && its == ours
            };
            let vouches = |der: &CertificateDer<'_>| holds_key(der) || *der == first_of(NODE);
            assert!(ca.certificates().iter().any(vouches), "this CA didn't sign it");
        }
    }
    _ = ca.not_after();
}

fn issuer(text: &[u8]) {
    match Issuer::parse(("ca".to_owned(), text), ("key", CA_KEY), NOW) {
        Err(fault) => one_line(&fault),
        Ok(issuer) => {
            let node = pair(NODE, NODE_KEY).expect("a good pair");
            let names = ["10.0.0.9".to_owned(), "NODE.example.com.".to_owned()];
            match issuer.mint(node.certified().key.clone(), &names, "node", NOW, 86400) {
                Err(fault) => one_line(&fault),
                // The mint has verified it already: what it gives out has to be whole.
                Ok(leaf) => _ = pair(leaf.pem.as_bytes(), NODE_KEY).expect("what was minted can be read"),
            }
        }
    }
}

fn pair(certificate: &[u8], key: &[u8]) -> Result<Pair, Fault> {
    Pair::parse(("crt".to_owned(), certificate), ("key".to_owned(), key))
}

fn passes(pair: &Pair, ca: &[u8]) -> Result<(), Fault> {
    let ca = Ca::parse("ca".to_owned(), ca)?;
    let check = |as_client| pair.check(&Want { now: NOW, ca: Some(&ca), names: &[], as_client });
    // What serves as a client serves as a server, too.
    let (server, client) = (check(false), check(true));
    assert!(server.is_ok() || client.is_err(), "{server:?}");
    server
}

fn spki(der: &[u8]) -> Option<Vec<u8>> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate.public_key().raw.to_vec())
}

fn first_of(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).expect("a fixture")
}

fn in_pem(der: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut pem = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    for group in der.chunks(3) {
        let bits = group.iter().fold(0, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - group.len()));
        pem.extend(
            (0..4).map(|n| if n > group.len() { b'=' } else { ALPHABET[(bits >> (18 - 6 * n) & 0x3f) as usize] }),
        );
    }
    pem.extend(b"\n-----END CERTIFICATE-----\n");
    pem
}

fn one_line(fault: &Fault) {
    let line = fault.to_string();
    assert!(!line.contains(['\n', '\r']), "{line:?}");
}
