//! Certificates made by another implementation (rcgen), read by ours; ours, read by another (x509-parser).

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
    PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};
use time::OffsetDateTime;

use super::der::Reader;
use super::*;

/// 2027-01-15T08:00:00Z.
const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86400;

/// A directory that is gone with its test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("etcd-muster-pki-{:x}", crate::util::clock::random()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.0.join(name), content).unwrap();
        self.0.join(name)
    }

    /// A fault's line, its paths without this directory.
    fn line(&self, fault: &Fault) -> String {
        let line = fault.to_string();
        assert!(!line.contains('\n'), "{line}");
        line.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Dir {
    #[expect(clippy::disallowed_methods, reason = "made by this test")]
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn params(name: &str, sans: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(sans.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::from_unix_timestamp(NOW - DAY).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp(NOW + 365 * DAY).unwrap();
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A leaf as an operator should make it.
fn leaf_params(name: &str) -> CertificateParams {
    let mut params = params(name, &["10.0.0.1", "ip-10-0-0-1.ec2.internal", "fd00::1"]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

struct Made {
    pem: String,
    key: String,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

fn made(params: CertificateParams, key: KeyPair, by: Option<&Made>) -> Made {
    let certificate = match by {
        Some(by) => params.signed_by(&key, &by.issuer),
        None => params.self_signed(&key),
    };
    let (pem, key_pem) = (certificate.unwrap().pem(), key.serialize_pem());
    Made { pem, key: key_pem, issuer: rcgen::Issuer::new(params, key) }
}

fn p256() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn every_kind() -> Vec<KeyPair> {
    let kinds = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512, &PKCS_ED25519];
    let mut keys: Vec<_> = kinds.into_iter().map(|kind| KeyPair::generate_for(kind).unwrap()).collect();
    keys.push(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap());
    keys
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn der_of(pem: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

fn key_der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap().secret_der().to_vec()
}

/// A CA, and a leaf of it, in files.
struct Scene {
    dir: Dir,
    ca: Arc<Made>,
    leaf: Arc<Made>,
}

impl Scene {
    fn new(leaf: CertificateParams) -> Self {
        Self::with_ca(ca_params("lab CA"), leaf)
    }

    fn with_ca(ca: CertificateParams, leaf: CertificateParams) -> Self {
        let ca = made(ca, p256(), None);
        let leaf = made(leaf, p256(), Some(&ca));
        Self::of(ca.into(), leaf.into())
    }

    fn of(ca: Arc<Made>, leaf: Arc<Made>) -> Self {
        let dir = Dir::new();
        dir.write("client.crt", &leaf.pem);
        dir.write("client.key", &leaf.key);
        dir.write("client_ca.crt", &ca.pem);
        Self { dir, ca, leaf }
    }

    fn load(&self) -> Result<Pair, String> {
        let (certificate, key) = (self.dir.0.join("client.crt"), self.dir.0.join("client.key"));
        Pair::load(&certificate, &key).map_err(|fault| self.dir.line(&fault))
    }

    fn ca(&self) -> Result<Ca, String> {
        Ca::load(&self.dir.0.join("client_ca.crt")).map_err(|fault| self.dir.line(&fault))
    }

    fn check(&self, names: &[String], as_client: bool, now: i64) -> Result<(), String> {
        let ca = self.ca()?;
        let want = Want { now, ca: Some(&ca), names, as_client };
        self.load()?.check(&want).map_err(|fault| self.dir.line(&fault))
    }

    /// With the names that it is for.
    fn check_own(&self) -> Result<(), String> {
        self.check(&names(&["10.0.0.1", "ip-10-0-0-1.ec2.internal", "fd00::1"]), true, NOW)
    }
}

fn loads_as(what: impl FnOnce(&Scene), line: &str) {
    let scene = Scene::new(leaf_params("node"));
    assert!(scene.load().is_ok());
    what(&scene);
    assert_eq!(scene.load().unwrap_err(), line);
}

#[test]
fn a_good_pair_of_every_kind_passes() {
    for (ca_key, leaf_key) in every_kind().into_iter().zip(every_kind().into_iter().rev()) {
        let ca = made(ca_params("lab CA"), ca_key, None);
        let leaf = made(leaf_params("node"), leaf_key, Some(&ca));
        let scene = Scene::of(ca.into(), leaf.into());
        scene.check_own().unwrap();
        let (pair, ca) = (scene.load().unwrap(), scene.ca().unwrap());
        let leaf = pair.leaf();
        assert_eq!((leaf.not_before, leaf.not_after), (NOW - DAY, NOW + 365 * DAY));
        assert_eq!((leaf.subject.as_str(), leaf.issuer.as_str(), leaf.is_ca), ("node", "lab CA", false));
        assert_eq!(leaf.names, ["10.0.0.1", "ip-10-0-0-1.ec2.internal", "fd00::1"]);
        assert_eq!(ca.not_after(), NOW + 365 * DAY);
        assert_eq!((pair.digest().len(), ca.certificates().len()), (64, 1));
        assert!(pair.certified().keys_match().is_ok());
    }
}

#[test]
fn keys_in_every_form() {
    let pair = p256();
    let sec1 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pair.serialized_der()).unwrap();
    let sec1 = pem::write("EC PRIVATE KEY", sec1.private_key().as_der().unwrap().as_ref());
    // openssl ecparam -genkey writes the curve before the key.
    let with_curve = format!("{}{sec1}", pem::write("EC PARAMETERS", &[6, 8, 42, 134, 72, 206, 61, 3, 1, 7]));
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    // PKCS#8 holds PKCS#1: version, algorithm, and then the octets of RSAPrivateKey.
    let mut pkcs8 = Reader(rsa.serialized_der()).inside(der::SEQUENCE).unwrap();
    pkcs8.any();
    pkcs8.any();
    let pkcs1 = pem::write("RSA PRIVATE KEY", pkcs8.value(der::OCTET_STRING).unwrap().content);
    let mut forms = vec![(&pair, sec1), (&pair, with_curve), (&rsa, pkcs1)];
    // Windows' line ends.
    forms.push((&pair, pair.serialize_pem().replace('\n', "\r\n")));
    for (key, form) in forms {
        let dir = Dir::new();
        let certificate = dir.write("a.crt", ca_params("CA").self_signed(key).unwrap().pem());
        Pair::load(&certificate, &dir.write("a.key", &form)).map_err(|f| dir.line(&f)).unwrap();
        Issuer::load(&certificate, &form, "ssm:/ca", NOW).map_err(|f| dir.line(&f)).unwrap();
    }
}

#[test]
fn files_that_hold_something_else() {
    let uid = nix::unistd::geteuid();
    loads_as(
        |scene| fs::remove_file(scene.dir.0.join("client.crt")).unwrap(),
        "client.crt: the file does not exist; put it there",
    );
    loads_as(
        |scene| {
            fs::remove_file(scene.dir.0.join("client.key")).unwrap();
            fs::create_dir(scene.dir.0.join("client.key")).unwrap();
        },
        &format!(
            "client.key: can't be read: it is a directory, not a regular file; make it a file that uid {uid} may read"
        ),
    );
    loads_as(
        |scene| drop(scene.dir.write("client.crt", vec![b'x'; (1 << 20) + 1])),
        &format!("client.crt: can't be read: it is larger than 1 MiB; make it a file that uid {uid} may read"),
    );
    loads_as(|scene| drop(scene.dir.write("client.crt", "\n")), "client.crt: is empty; write it again");
    loads_as(|scene| drop(scene.dir.write("client.key", "")), "client.key: is empty; write it again");
    // A path is shown as it is in the command: only its first mention is shortened here.
    let scene = Scene::new(leaf_params("node"));
    scene.dir.write("client.crt", der_of(&scene.leaf.pem));
    assert_eq!(
        scene.load().unwrap_err(),
        "client.crt: is DER, not PEM; convert it: openssl x509 -inform der -in client.crt -out client.crt.pem"
    );
    loads_as(
        |scene| drop(scene.dir.write("client.key", key_der(&scene.leaf.key))),
        "client.key: is DER, not PEM; convert it: openssl pkey -inform der -in client.key -out client.key.pem",
    );
    loads_as(
        |scene| drop(scene.dir.write("client.crt", "-----BEGIN CERTIFICATE-----\n$\n-----END CERTIFICATE-----\n")),
        "client.crt: its PEM is damaged: what is between BEGIN and END is not base64; copy it again",
    );
    loads_as(
        |scene| drop(scene.dir.write("client.crt", &scene.leaf.pem[..200])),
        "client.crt: its PEM is damaged: a BEGIN or END line is missing, or isn't on a line of its own; copy it again",
    );
    // Pasted without its line breaks, as happens to parameters: the library would quote all of it.
    for gap in ["", " "] {
        loads_as(
            |scene| drop(scene.dir.write("client.key", scene.leaf.key.replace('\n', gap))),
            "client.key: its PEM is damaged: a BEGIN or END line is missing, or isn't on a line of its own; copy it again",
        );
    }
    loads_as(
        |scene| drop(scene.dir.write("client.crt", pem::write("CERTIFICATE", b"\x30\x03abc"))),
        "client.crt: certificate 1 in it can't be parsed; openssl x509 -text -in client.crt may tell more",
    );
    loads_as(
        |scene| drop(scene.dir.write("client.crt", &scene.leaf.key)),
        "client.crt: holds a private key, no certificate; are the certificate's and the key's file swapped?",
    );
    loads_as(
        |scene| drop(scene.dir.write("client.crt", "a note")),
        "client.crt: holds no certificate; it must be PEM with a line -----BEGIN CERTIFICATE-----",
    );
    loads_as(
        |scene| drop(scene.dir.write("client.key", &scene.leaf.pem)),
        "client.key: holds a certificate, no private key; are the certificate's and the key's file swapped?",
    );
    loads_as(
        |scene| drop(scene.dir.write("client.key", "a note")),
        "client.key: holds no private key; it must be PEM with a line -----BEGIN PRIVATE KEY-----",
    );
    loads_as(
        |scene| drop(scene.dir.write("client.key", pem::write("PRIVATE KEY", b"\x30\x03abc"))),
        "client.key: the private key can't be used; it must be RSA of 2048 bits or more, ECDSA P-256, P-384, P-521, or Ed25519",
    );
}

#[test]
fn encrypted_keys_are_called_so() {
    let line = "client.key: the private key is encrypted, and there is no one to enter its passphrase; decrypt it: openssl pkey";
    loads_as(|scene| drop(scene.dir.write("client.key", pem::write("ENCRYPTED PRIVATE KEY", b"\x30\x03abc"))), line);
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
               -----END RSA PRIVATE KEY-----\n";
    loads_as(|scene| drop(scene.dir.write("client.key", old)), line);
}

#[test]
fn a_key_of_another_certificate() {
    loads_as(
        |scene| drop(scene.dir.write("client.key", p256().serialize_pem())),
        "client.key: is not the key of \"node\" in client.crt; put two there that belong together",
    );
    loads_as(
        |scene| drop(scene.dir.write("client.crt", scene.ca.pem.clone() + &scene.leaf.pem)),
        "client.crt: the first certificate is \"lab CA\", but the key belongs to certificate 2; put the leaf first, its \
         issuers after it",
    );
}

#[test]
fn certificates_out_of_date() {
    let scene = Scene::new(leaf_params("node"));
    let (first, last) = (NOW - DAY, NOW + 365 * DAY);
    let own = names(&["10.0.0.1"]);
    assert_eq!(scene.check(&own, true, first), Ok(()));
    assert_eq!(scene.check(&own, true, last), Ok(()));
    assert_eq!(
        scene.check(&own, true, last + 1).unwrap_err(),
        "client.crt: \"node\" expired on 2028-01-15T08:00:00Z; replace it"
    );
    assert_eq!(
        scene.check(&own, true, first - 1).unwrap_err(),
        "client.crt: \"node\" is valid from 2027-01-14T08:00:00Z on, and here it is 2027-01-14T07:59:59Z; is the clock right?"
    );
    // webpki would take an expired anchor; Go, and so etcd, doesn't.
    let mut expired = ca_params("lab CA");
    expired.not_after = OffsetDateTime::from_unix_timestamp(NOW - 1).unwrap();
    let scene = Scene::with_ca(expired, leaf_params("node"));
    let line = "client_ca.crt: \"lab CA\" expired on 2027-01-15T07:59:59Z; replace it";
    assert_eq!(scene.check_own().unwrap_err(), line);
    // Nor does one beside it help that is valid and has nothing to do with it.
    let other = made(ca_params("other CA"), p256(), None);
    scene.dir.write("client_ca.crt", scene.ca.pem.clone() + &other.pem);
    assert_eq!(scene.check_own().unwrap_err(), line);
    assert_eq!(scene.ca().unwrap().not_after(), NOW - 1);
}

#[test]
fn a_certificate_for_somebody_else() {
    let scene = Scene::new(leaf_params("node"));
    // Each of them is needed.
    assert_eq!(
        scene.check(&names(&["10.0.0.1", "10.0.0.2"]), true, NOW).unwrap_err(),
        "client.crt: is not valid for 10.0.0.2, where this node is reached; it has 10.0.0.1, ip-10-0-0-1.ec2.internal, \
         fd00::1; issue it anew with 10.0.0.2 as a subject alternative name"
    );
    let mut nameless = leaf_params("10.0.0.1");
    nameless.subject_alt_names.clear();
    // Go, too, takes no common name for a host's.
    assert_eq!(
        Scene::new(nameless).check_own().unwrap_err(),
        "client.crt: is not valid for 10.0.0.1, where this node is reached; it has none; issue it anew with 10.0.0.1 as a \
         subject alternative name"
    );
    let mut wild = leaf_params("node");
    wild.subject_alt_names = params("", &["*.ec2.internal"]).subject_alt_names;
    assert_eq!(Scene::new(wild).check(&names(&["ip-10-0-0-1.ec2.internal"]), true, NOW), Ok(()));
}

#[test]
fn usages() {
    let with = |usages: &[ExtendedKeyUsagePurpose]| {
        let mut params = leaf_params("node");
        params.extended_key_usages = usages.to_vec();
        Scene::new(params)
    };
    assert_eq!(with(&[]).check_own(), Ok(()));
    assert_eq!(
        with(&[ExtendedKeyUsagePurpose::ClientAuth]).check_own().unwrap_err(),
        "client.crt: \"node\" is not for servers; issue it anew with extendedKeyUsage = serverAuth, clientAuth"
    );
    let server = with(&[ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(
        server.check_own().unwrap_err(),
        "client.crt: \"node\" is not for clients, and etcd is its own client with it where client certificates are demanded \
         (every /v3 call would be a 503); issue it anew with extendedKeyUsage = serverAuth, clientAuth"
    );
    assert_eq!(server.check(&names(&["10.0.0.1"]), false, NOW), Ok(()));
}

#[test]
fn chains() {
    let scene = Scene::new(leaf_params("node"));
    let other = made(ca_params("other CA"), p256(), None);
    scene.dir.write("client_ca.crt", &other.pem);
    assert_eq!(
        scene.check_own().unwrap_err(),
        "client.crt: \"node\" is issued by \"lab CA\", but client_ca.crt holds \"other CA\"; add the issuers between to the \
         certificate's file, or use the CA's own certificate"
    );
    // Without a CA nobody can say.
    let own = names(&["10.0.0.1"]);
    assert!(scene.load().unwrap().check(&Want { now: NOW, ca: None, names: &own, as_client: true }).is_ok());
    scene.dir.write("client_ca.crt", made(ca_params("lab CA"), p256(), None).pem);
    assert_eq!(
        scene.check_own().unwrap_err(),
        "client.crt: \"node\" names \"lab CA\" as its issuer, but the key of that name in client_ca.crt didn't sign it; was \
         the CA made anew?"
    );
    // During a change of CAs both lie in one file.
    scene.dir.write("client_ca.crt", other.pem.clone() + &scene.ca.pem);
    assert_eq!(scene.check_own(), Ok(()));

    // An intermediate: needed in the certificate's file, or trusted itself.
    let middle = made(ca_params("middle CA"), p256(), Some(&scene.ca));
    let leaf = made(leaf_params("node"), p256(), Some(&middle));
    scene.dir.write("client_ca.crt", &scene.ca.pem);
    scene.dir.write("client.key", &leaf.key);
    scene.dir.write("client.crt", &leaf.pem);
    assert_eq!(
        scene.check_own().unwrap_err(),
        "client.crt: \"node\" is issued by \"middle CA\", but client_ca.crt holds \"lab CA\"; add the issuers between to the \
         certificate's file, or use the CA's own certificate"
    );
    scene.dir.write("client.crt", leaf.pem.clone() + &middle.pem);
    assert_eq!(scene.check_own(), Ok(()));
    scene.dir.write("client.crt", &leaf.pem);
    scene.dir.write("client_ca.crt", &middle.pem);
    assert_eq!(scene.check_own(), Ok(()));
}

#[test]
fn what_is_no_leaf_and_what_is_no_ca() {
    let mut own_ca = leaf_params("node");
    own_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let scene = Scene::new(own_ca);
    assert_eq!(
        scene.check_own().unwrap_err(),
        "client.crt: \"node\" is a CA's certificate (CA:TRUE); use one that this CA issued (CA:FALSE)"
    );
    let scene = Scene::new(leaf_params("node"));
    scene.dir.write("client_ca.crt", &scene.leaf.pem);
    assert_eq!(
        scene.ca().unwrap_err(),
        "client_ca.crt: holds no CA's certificate, only \"node\" (CA:FALSE); use that of its issuer"
    );
    scene.dir.write("client_ca.crt", &scene.ca.key);
    assert_eq!(
        scene.ca().unwrap_err(),
        "client_ca.crt: holds a private key, no certificate; are the certificate's and the key's file swapped?"
    );
    // etcd's automatic ones: self-signed, CA:FALSE, their own anchor.
    let own = made(leaf_params("node"), p256(), None);
    for (file, content) in [("client.crt", &own.pem), ("client.key", &own.key), ("client_ca.crt", &own.pem)] {
        scene.dir.write(file, content);
    }
    assert_eq!(scene.check_own(), Ok(()));
    // But it vouches for nobody else, in Go.
    let mut liar = leaf_params("node");
    liar.distinguished_name.push(DnType::OrganizationName, "another");
    let liar = made(liar, p256(), Some(&own));
    scene.dir.write("client.crt", &liar.pem);
    scene.dir.write("client.key", &liar.key);
    assert_eq!(
        scene.check_own().unwrap_err(),
        "client.crt: \"node\" is issued by \"node\", but client_ca.crt holds \"node\" (CA:FALSE); add the issuers between to \
         the certificate's file, or use the CA's own certificate"
    );
}

fn issuer(dir: &Dir, made: &Made) -> Result<Issuer, String> {
    let path = dir.write("ca.crt", &made.pem);
    Issuer::load(&path, &made.key, "ssm:/lab/ca", NOW).map_err(|fault| dir.line(&fault))
}

#[test]
fn issuers_that_cannot_sign() {
    let dir = Dir::new();
    let refused = |params: CertificateParams| issuer(&dir, &made(params, p256(), None)).unwrap_err();
    let mut expired = ca_params("lab CA");
    expired.not_after = OffsetDateTime::from_unix_timestamp(NOW - 1).unwrap();
    assert_eq!(refused(expired), "ca.crt: \"lab CA\" expired on 2027-01-15T07:59:59Z; replace it");
    let mut early = ca_params("lab CA");
    early.not_before = OffsetDateTime::from_unix_timestamp(NOW + 1).unwrap();
    assert_eq!(
        refused(early),
        "ca.crt: \"lab CA\" is valid from 2027-01-15T08:00:01Z on, and here it is 2027-01-15T08:00:00Z; is the clock right?"
    );
    assert_eq!(
        refused(leaf_params("node")),
        "ca.crt: \"node\" is no CA's certificate (CA:FALSE); use one with basicConstraints = CA:TRUE"
    );
    let mut useless = ca_params("lab CA");
    useless.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert_eq!(refused(useless), "ca.crt: \"lab CA\" may not sign certificates; its keyUsage must have keyCertSign");
    let ca = made(ca_params("lab CA"), p256(), None);
    let path = dir.write("ca.crt", &ca.pem);
    let with = |key: &str| dir.line(&Issuer::load(&path, key, "ssm:/lab/ca", NOW).unwrap_err());
    assert_eq!(
        with(&p256().serialize_pem()),
        "ssm:/lab/ca: is not the key of \"lab CA\" in ca.crt; put two there that belong together"
    );
    assert_eq!(
        with(&pem::write("PRIVATE KEY", b"\x30\x03abc")),
        "ssm:/lab/ca: the private key can't be used; it must be RSA of 2048 bits or more, ECDSA P-256, P-384, P-521, or Ed25519"
    );
    assert_eq!(
        with(&pem::write("ENCRYPTED PRIVATE KEY", b"\x30\x03abc")),
        "ssm:/lab/ca: the private key is encrypted, and there is no one to enter its passphrase; decrypt it: openssl pkey"
    );
    assert_eq!(with(" "), "ssm:/lab/ca: is empty; write it again");
    assert_eq!(
        with(&ca.pem),
        "ssm:/lab/ca: holds a certificate, no private key; are the certificate's and the key's file swapped?"
    );
}

fn mint(issuer: &Issuer, wanted: &[&str], now: i64, life: i64) -> Result<Leaf, Fault> {
    let (_, key) = issuer::new_key().unwrap();
    issuer.mint(key, &names(wanted), "i-0123456789abcdef0", now, life)
}

/// Its extensions gone, a CA's certificate would look like anybody's.
#[test]
fn extensions_that_cannot_be_read_are_not_absent() {
    let mut der = der_of(&made(ca_params("lab CA"), p256(), None).pem);
    assert!(Certificate::read(&der).unwrap().is_ca);
    // `[3]`, its length, and the SEQUENCE that fills it: keys and signatures are random bytes, and two of them may look alike.
    let is_extensions = |part: &[u8]| {
        part[0] == der::constructed(3) && part[2] == der::SEQUENCE && part[3].checked_add(2) == Some(part[1])
    };
    let at = der.windows(4).rposition(is_extensions).unwrap();
    der[at + 1] = 0x7f;
    assert_eq!(Certificate::read(&der), None);
}

#[test]
fn a_leaf_of_every_kind_of_ca_as_another_reader_sees_it() {
    for key in every_kind() {
        let dir = Dir::new();
        let ca = made(ca_params("lab CA"), key, None);
        let issuer = issuer(&dir, &ca).unwrap();
        let wanted = ["10.0.0.1", "fd00:0::1", "IP-10-0-0-1.ec2.internal.", "localhost", "*.etcd.lab", "10.0.0.1"];
        let leaf = mint(&issuer, &wanted, NOW, 90 * DAY).unwrap();
        let (leaf_der, ca_der) = (der_of(&leaf.pem), der_of(&ca.pem));
        assert_eq!(leaf.pem.matches("BEGIN").count(), 1);
        let (rest, read) = x509_parser::parse_x509_certificate(&leaf_der).unwrap();
        let (_, ca_read) = x509_parser::parse_x509_certificate(&ca_der).unwrap();
        assert!(rest.is_empty());
        assert_eq!(read.version(), x509_parser::x509::X509Version::V3);
        assert_eq!(read.subject().to_string(), "O=i-0123456789abcdef0");
        assert_eq!(read.issuer().as_raw(), ca_read.subject().as_raw());
        assert_eq!(read.signature_algorithm, read.tbs_certificate.signature);
        assert_eq!(read.validity().not_before.timestamp(), NOW - 3600);
        assert_eq!(read.validity().not_after.timestamp(), NOW + 90 * DAY);
        let serial = read.raw_serial();
        assert!(serial.len() == 16 && serial[0] & 0xc0 == 0x40, "{serial:?}");
        let constraints = read.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && !constraints.value.ca);
        let usage = read.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.flags == 1, "{:?}", usage.value);
        let extended = read.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth && !extended.any && extended.other.is_empty());
        use x509_parser::extensions::{GeneralName, ParsedExtension};
        let sans: Vec<String> = read
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .iter()
            .map(|name| match name {
                GeneralName::DNSName(name) => (*name).to_owned(),
                GeneralName::IPAddress(octets) => match <[u8; 4]>::try_from(*octets) {
                    Ok(octets) => IpAddr::from(octets).to_string(),
                    Err(_) => IpAddr::from(<[u8; 16]>::try_from(*octets).unwrap()).to_string(),
                },
                other => panic!("{other}"),
            })
            .collect();
        let expected = ["*.etcd.lab", "10.0.0.1", "fd00::1", "ip-10-0-0-1.ec2.internal", "localhost"];
        assert_eq!(sans, expected);
        assert_eq!(leaf.certificate.names, expected);
        let key_id = |of: &x509_parser::certificate::X509Certificate<'_>| {
            of.iter_extensions().find_map(|e| match e.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
        };
        assert!(key_id(&read).is_some() && key_id(&read) == key_id(&ca_read));
    }
}

#[test]
fn a_leafs_life() {
    let dir = Dir::new();
    let ca = made(ca_params("lab CA"), p256(), None);
    let issuer = issuer(&dir, &ca).unwrap();
    let life = |now: i64, life: i64| {
        let leaf = mint(&issuer, &["localhost"], now, life).unwrap().certificate;
        (leaf.not_before - now, leaf.not_after - now, renew_at(&leaf, issuer.ca()) - now)
    };
    assert_eq!(life(NOW, 90 * DAY), (-3600, 90 * DAY, 60 * DAY - 1200));
    // Short ones are backdated by less, or they would be due at once.
    assert_eq!(life(NOW, 300), (-30, 300, 190));
    // Never before nor after its CA; a renewal wouldn't make it longer.
    assert_eq!(life(NOW, 1000 * DAY), (-3600, 365 * DAY, 365 * DAY));
    assert_eq!(life(NOW - DAY + 60, 90 * DAY).0, -60);
    let late = mint(&issuer, &["localhost"], NOW + 365 * DAY + 1, DAY).unwrap_err();
    assert_eq!(dir.line(&late), "ca.crt: \"lab CA\" expired on 2028-01-15T08:00:00Z; replace it");
    let serials: std::collections::BTreeSet<_> =
        (0..20).map(|_| mint(&issuer, &["localhost"], NOW, DAY).unwrap().certificate.serial).collect();
    assert_eq!(serials.len(), 20);
}

#[test]
fn names_no_leaf_can_have() {
    let dir = Dir::new();
    let issuer = issuer(&dir, &made(ca_params("lab CA"), p256(), None)).unwrap();
    for name in ["", "a b", "https://10.0.0.1", "a..b", "10.0.0.1:2379", "*", "*.a b", "*.10.0.0.1", "fe80::1%eth0"] {
        let fault = mint(&issuer, &["localhost", name], NOW, DAY).unwrap_err();
        assert_eq!(
            dir.line(&fault),
            format!("ca.crt: no certificate can be made for {name:?}; a DNS name or an address is wanted")
        );
    }
    let mut narrow = ca_params("lab CA");
    let permitted_subtrees = vec![GeneralSubtree::DnsName("etcd.lab".to_owned())];
    narrow.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    let narrow = super::tests::issuer(&dir, &made(narrow, p256(), None)).unwrap();
    assert!(mint(&narrow, &["a.etcd.lab"], NOW, DAY).is_ok());
    assert_eq!(
        dir.line(&mint(&narrow, &["localhost"], NOW, DAY).unwrap_err()),
        "ca.crt: can't issue a certificate for this node: invalid peer certificate: Other(OtherError(NameConstraintViolation)); \
         use another CA"
    );
}

#[test]
fn an_issuers_name_is_kept_byte_for_byte() {
    // DC=example, DC=com: what rcgen itself can't say, so its name is put together here.
    let part = |id: &[u8], text: &[u8]| {
        let attribute = der::holding(der::SEQUENCE, &[der::value(der::OID, id), der::value(0x16, text)]);
        der::value(der::SET, &attribute)
    };
    const DOMAIN_COMPONENT: &[u8] = &[9, 146, 38, 137, 147, 242, 44, 100, 1, 25];
    let name = der::holding(der::SEQUENCE, &[part(DOMAIN_COMPONENT, b"com"), part(DOMAIN_COMPONENT, b"example")]);
    let dir = Dir::new();
    let key = p256();
    let plain = der_of(&made(ca_params("x"), KeyPair::from_pem(&key.serialize_pem()).unwrap(), None).pem);
    let old = Certificate::read(&plain).unwrap().subject_der;
    // The name exchanged in both places; the signature over it anew.
    let mut outer = Reader(&plain).inside(der::SEQUENCE).unwrap();
    let mut fields = Reader(outer.value(der::SEQUENCE).unwrap().content);
    let mut tbs = Vec::new();
    while let Some(field) = fields.any() {
        tbs.push(if field.whole == old { name.clone() } else { field.whole.to_vec() });
    }
    let tbs = der::holding(der::SEQUENCE, &tbs);
    let algorithm = outer.any().unwrap().whole.to_vec();
    let signature = rcgen::SigningKey::sign(&key, &tbs).unwrap();
    let ca = der::holding(der::SEQUENCE, &[tbs, algorithm, der::bit_string(&signature)]);
    let path = dir.write("ca.crt", pem::write("CERTIFICATE", &ca));
    let issuer = Issuer::load(&path, &key.serialize_pem(), "k", NOW).unwrap();
    let leaf = mint(&issuer, &["localhost"], NOW, DAY).unwrap().certificate;
    assert_eq!((leaf.issuer_der, leaf.issuer.as_str()), (name, "com, example"));
}

#[test]
fn an_intermediate_follows_its_leaf() {
    let dir = Dir::new();
    let root = made(ca_params("root"), p256(), None);
    let middle = made(ca_params("middle"), p256(), Some(&root));
    let path = dir.write("ca.crt", root.pem.clone() + &middle.pem);
    let issuer = Issuer::load(&path, &middle.key, "k", NOW).unwrap();
    let minted = Minted::at(dir.0.join("tls"));
    let leaf = issuer.mint(minted.key().unwrap(), &names(&["localhost"]), "i-1", NOW, DAY).unwrap();
    assert_eq!(leaf.pem.matches("BEGIN").count(), 2);
    minted.keep(&leaf).unwrap();
    // Good for those who trust the root alone.
    let ca = Ca::load(&dir.write("root.crt", &root.pem)).unwrap();
    assert!(matches!(minted.status(&ca, &names(&["localhost"]), NOW), LeafStatus::Good { .. }));
}

#[test]
fn a_minted_leaf_on_disk() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = Dir::new();
    let issuer = issuer(&dir, &made(ca_params("lab CA"), p256(), None)).unwrap();
    let minted = Minted::at(dir.0.join("muster/tls"));
    let own = names(&["10.0.0.1", "FD00::1", "localhost"]);
    let standing = |own: &[String], now: i64| match minted.status(issuer.ca(), own, now) {
        LeafStatus::Unfit(fault) => dir.line(&fault),
        other => format!("{other:?}"),
    };
    assert_eq!(standing(&own, NOW), "muster/tls/leaf.crt: the file does not exist; put it there");
    // A draft that a crash left, for all to read.
    fs::create_dir_all(dir.0.join("muster/tls")).unwrap();
    dir.write("muster/tls/leaf.key.new", "half");
    fs::set_permissions(dir.0.join("muster/tls/leaf.key.new"), fs::Permissions::from_mode(0o644)).unwrap();
    let key = minted.key().unwrap();
    minted.keep(&issuer.mint(key, &own, "i-1", NOW, 90 * DAY).unwrap()).unwrap();
    let renewal = NOW + 60 * DAY - 1200;
    assert_eq!(standing(&own, NOW), format!("Good {{ renew_at: {renewal} }}"));
    assert_eq!(mode(&dir.0.join("muster/tls")), 0o700);
    assert_eq!((mode(&minted.key_file()), mode(&minted.certificate())), (0o600, 0o600));
    // Two thirds over, or a name too many: it serves, but a new one is wanted.
    assert_eq!(standing(&own, renewal), "Due");
    assert_eq!(standing(&own[..2], NOW), "Due");
    let line = "muster/tls/leaf.crt: \"i-1\" expired on 2027-04-15T08:00:00Z; replace it";
    assert_eq!(standing(&own, NOW + 90 * DAY + 1), line);
    // Nor does it take the CA's key to start with one that lacks a name.
    assert_eq!(standing(&names(&["10.0.0.2", "*.etcd.lab"]), NOW), "Due");
    let new_ca = Ca::load(&dir.write("new.crt", made(ca_params("new CA"), p256(), None).pem)).unwrap();
    assert!(matches!(minted.status(&new_ca, &own, NOW), LeafStatus::Unfit(_)));

    // A renewal leaves the key's file alone, so that the pair matches at every moment.
    let (old_key, old) = (fs::read(minted.key_file()).unwrap(), minted.pair().unwrap());
    minted.keep(&issuer.mint(minted.key().unwrap(), &own, "i-1", NOW + DAY, 90 * DAY).unwrap()).unwrap();
    assert_eq!(fs::read(minted.key_file()).unwrap(), old_key);
    let new = minted.pair().unwrap();
    assert_ne!(new.digest(), old.digest());
    assert_eq!(new.leaf().spki, old.leaf().spki);
    // A damaged key is made anew, one that can't be read isn't.
    dir.write("muster/tls/leaf.key", "damaged");
    minted.keep(&issuer.mint(minted.key().unwrap(), &own, "i-1", NOW, DAY).unwrap()).unwrap();
    assert!(minted.pair().is_ok());
    fs::remove_file(minted.key_file()).unwrap();
    fs::create_dir(minted.key_file()).unwrap();
    assert!(matches!(minted.key().unwrap_err().flaw, Flaw::Unreadable(_)));
    // Nor is a directory that can't be one.
    let blocked = Minted::at(dir.write("file", "").join("tls"));
    let uid = nix::unistd::geteuid();
    assert_eq!(
        dir.line(&blocked.key().unwrap_err()),
        format!(
            "file/tls/leaf.key: can't be read: Not a directory (os error 20); make it a file that uid {uid} may read"
        )
    );
    let leaf = issuer.mint(issuer::new_key().unwrap().1, &own, "i-1", NOW, DAY).unwrap();
    assert_eq!(
        dir.line(&blocked.keep(&leaf).unwrap_err()),
        format!("file/tls/leaf.crt: can't be written: Not a directory (os error 20); uid {uid} must be able to")
    );
}

#[test]
fn an_ephemeral_certificate_is_its_own() {
    let certified = ephemeral(NOW).unwrap();
    certified.keys_match().unwrap();
    let (rest, read) = x509_parser::parse_x509_certificate(&certified.cert[0]).unwrap();
    assert!(rest.is_empty() && read.issuer() == read.subject() && !read.is_ca());
    assert_ne!(ephemeral(NOW).unwrap().cert, certified.cert);
}

#[test]
fn no_key_shows() {
    let scene = Scene::new(leaf_params("node"));
    let ca = issuer(&scene.dir, &scene.ca).unwrap();
    let minted = Minted::at(scene.dir.0.join("tls"));
    let key = minted.key().unwrap();
    let shown = format!("{:?} {ca:?} {minted:?} {key:?} {:?}", scene.load().unwrap(), ephemeral(NOW).unwrap());
    let minted_key = fs::read_to_string(minted.key_file()).unwrap();
    for pem in [&scene.leaf.key, &scene.ca.key, &minted_key] {
        assert!(pem.lines().filter(|line| !line.starts_with('-')).all(|line| !shown.contains(line)));
        // The secret number itself, as a list of octets or in hex: 32 octets after PKCS#8's and SEC 1's heads.
        let der = key_der(pem);
        let secret = &der[36..68];
        assert!(!shown.contains(&format!("{secret:?}")[1..40]) && !shown.contains(&certificate::hex(secret)));
    }
}

/// One leaf and its CA for every case: what changes is what is done to their files.
/// The same pair each time, in a directory of its own.
fn fixture() -> Scene {
    static MADE: std::sync::OnceLock<(Arc<Made>, Arc<Made>)> = std::sync::OnceLock::new();
    let (ca, leaf) = MADE.get_or_init(|| {
        let scene = Scene::new(leaf_params("node"));
        (scene.ca.clone(), scene.leaf.clone())
    });
    Scene::of(ca.clone(), leaf.clone())
}

/// Some octets of it replaced, then cut off, perhaps.
fn mutated(text: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let text = text.as_bytes().to_vec();
    let length = text.len();
    let changes = prop::collection::vec((0..length, any::<u8>()), 1..4);
    (changes, prop_oneof![4 => Just(length), 1 => 0..length]).prop_map(move |(changes, end)| {
        let mut text = text.clone();
        for (at, octet) in changes {
            text[at] = octet;
        }
        text.truncate(end);
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn anything_at_all_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let scene = fixture();
        let dir = Dir::new();
        let file = dir.write("file", &bytes);
        dir.line(&Pair::load(&file, &scene.dir.0.join("client.key")).unwrap_err());
        dir.line(&Pair::load(&scene.dir.0.join("client.crt"), &file).unwrap_err());
        dir.line(&Ca::load(&file).unwrap_err());
        prop_assert!(Certificate::read(&bytes).is_none());
    }

    /// Whatever still passes is what the CA signed, and the key that belongs to it (a change outside the PEM is none).
    #[test]
    fn nothing_but_what_was_signed_passes(
        certificate in mutated(&fixture().leaf.pem),
        key in mutated(&fixture().leaf.key),
        ca in mutated(&fixture().ca.pem),
    ) {
        let scene = fixture();
        let dir = Dir::new();
        let own = names(&["10.0.0.1"]);
        let (right, right_key) = (scene.load().unwrap(), scene.dir.0.join("client.key"));
        let trusted = scene.ca().unwrap();
        let want = Want { now: NOW, ca: Some(&trusted), names: &own, as_client: true };
        if let Ok(pair) = Pair::load(&dir.write("a.crt", &certificate), &right_key)
            && pair.check(&want).is_ok()
        {
            prop_assert_eq!(pair.digest(), right.digest());
        }
        if let Ok(pair) = Pair::load(&scene.dir.0.join("client.crt"), &dir.write("a.key", &key)) {
            prop_assert!(pair.certified().keys_match().is_ok());
        }
        if let Ok(ca) = Ca::load(&dir.write("ca.crt", &ca))
            && right.check(&Want { ca: Some(&ca), ..want }).is_ok()
        {
            let key = |ca: &Ca| Certificate::read(&ca.certificates()[0]).unwrap().spki;
            prop_assert_eq!(key(&ca), key(&trusted));
        }
    }

    /// The same on the DER, where each change reaches the parser.
    #[test]
    fn nothing_but_what_was_signed_passes_as_der(at in 0..600_usize, octet in any::<u8>()) {
        let scene = fixture();
        let mut der = der_of(&scene.leaf.pem);
        let at = at % der.len();
        prop_assume!(der[at] != octet);
        der[at] = octet;
        let dir = Dir::new();
        let file = dir.write("a.crt", pem::write("CERTIFICATE", &der));
        let trusted = scene.ca().unwrap();
        let own = names(&["10.0.0.1"]);
        let want = Want { now: NOW, ca: Some(&trusted), names: &own, as_client: true };
        let checked = Pair::load(&file, &scene.dir.0.join("client.key")).and_then(|pair| pair.check(&want));
        prop_assert!(checked.is_err());
    }
}
