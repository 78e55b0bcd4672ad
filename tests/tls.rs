//! What comes of a connection between two nodes that are secured alike, or not: real handshakes on loopback. A handshake that fails
//! is told from a host on which nothing runs, whatever it fails over.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_muster::net::http::{self, Failure};
use etcd_muster::net::pki::{Issuer, Minted};
use etcd_muster::net::tls::{Acceptor, Believed, Demands, KeyFiles, Names, Trust};
use http_body_util::Full;
use hyper::Request;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const WITHIN: Duration = Duration::from_secs(10);
/// When everything here is made: in 2023, for rustls reads the wall clock.
const NOW: i64 = 1_700_000_000;
const DAY: i64 = 86400;
const YEARS: i64 = 40 * 365 * DAY;
const HOST: &str = "127.0.0.1";

/// A directory of this test's own, and what is made in it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("etcd-muster-tls-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// A CA of that name; its certificate's file and its key.
    fn ca(&self, name: &str) -> (PathBuf, String) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let path = self.0.join(format!("{name}.crt"));
        fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
        (path, key.serialize_pem())
    }

    /// A leaf of that CA for these names.
    fn leaf(&self, name: &str, ca: &(PathBuf, String), names: &[&str], life: i64) -> KeyFiles {
        let minted = Minted::at(self.0.join(name));
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let issuer = Issuer::load(&ca.0, &ca.1, "the CA's key", NOW).unwrap();
        minted.keep(&issuer.mint(minted.key().unwrap(), &names, name, NOW, life).unwrap()).unwrap();
        KeyFiles { cert: minted.certificate(), key: minted.key_file() }
    }
}

impl Drop for Place {
    #[expect(clippy::disallowed_methods, reason = "the test's own scratch directory")]
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn demands(ca: &Path) -> Option<Demands> {
    Some(Demands { ca: ca.to_owned(), revoked: None, common_names: Vec::new(), hosts: Vec::new() })
}

fn signed_by(ca: &Path) -> Believed {
    Believed::SignedBy(ca.to_owned())
}

/// What one caller meets at a server that shows this; `None`: it speaks plain.
fn meet(acceptor: Option<Acceptor>, trust: &Trust, scheme: &str) -> Result<u16, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let url = format!("{scheme}://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            match acceptor {
                None => answer(stream).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        answer(stream).await;
                    }
                }
            }
        });
        let request = Request::get(&url).body(Full::default()).unwrap();
        let met = http::Client::new(trust.clone()).fetch(request, WITHIN).await;
        server.await.unwrap();
        met.map(|answer| answer.status().as_u16()).map_err(|error| error.failure)
    })
}

async fn answer(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    let mut head = [0; 4096];
    let read = stream.read(&mut head).await.unwrap_or(0);
    let reply: &[u8] = match head[..read].starts_with(b"GET ") {
        true => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        // As any HTTP server to what it can't read.
        false => b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    };
    let _gone = stream.write_all(reply).await;
    let _gone = stream.shutdown().await;
}

#[test]
fn every_odd_pair_is_told_from_a_host_on_which_nothing_runs() {
    let place = Place::new("pairs");
    let (ours, theirs) = (place.ca("ours"), place.ca("theirs"));
    let leaf = place.leaf("leaf", &ours, &[HOST], YEARS);
    let of_others = place.leaf("of-others", &theirs, &[HOST], YEARS);
    let expired = place.leaf("expired", &ours, &[HOST], DAY);
    let elsewhere = place.leaf("elsewhere", &ours, &["10.9.9.9"], YEARS);
    let trust = |shown: Option<&KeyFiles>| Trust::new(signed_by(&ours.0), shown.cloned(), Names::default());
    let shows = |pair: &KeyFiles, demands| Some(Acceptor::of_files(pair.clone(), demands));
    let missing = KeyFiles { cert: place.0.join("nothing.crt"), key: place.0.join("nothing.key") };

    let good = trust(Some(&leaf));
    assert_eq!(meet(shows(&leaf, demands(&ours.0)), &good, "https"), Ok(200));
    assert_eq!(meet(None, &good, "http"), Ok(200));
    let odd = [
        ("another CA", meet(shows(&of_others, None), &good, "https"), "not signed by a CA"),
        ("expired", meet(shows(&expired, None), &good, "https"), "has expired"),
        ("for another host", meet(shows(&elsewhere, None), &good, "https"), "not valid for"),
        ("plain where TLS is expected", meet(None, &good, "https"), "it does not speak TLS"),
        ("TLS where plain is expected", meet(shows(&leaf, None), &good, "http"), "does it speak TLS?"),
        (
            "no certificate of ours",
            meet(shows(&leaf, demands(&ours.0)), &trust(None), "https"),
            "check this node's certificate",
        ),
        ("ours of another CA", meet(shows(&leaf, demands(&theirs.0)), &good, "https"), "check this node's certificate"),
        (
            "no CA at all here",
            meet(shows(&leaf, None), &Trust::new(signed_by(&missing.cert), None, Names::default()), "https"),
            "nothing.crt",
        ),
    ];
    for (what, met, words) in odd {
        match met {
            Err(Failure::Tls(cause) | Failure::Protocol(cause)) => assert!(cause.contains(words), "{what}: {cause}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    // It can't show anything, and so breaks off: somebody is there all the same.
    assert!(matches!(meet(shows(&missing, None), &good, "https"), Err(Failure::Closed(_))));
}

#[test]
fn nothing_listens_and_a_broken_handshake_are_two_things() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fetch = |url: String| async move {
        http::Client::new(Trust::public(None)).fetch(Request::get(&url).body(Full::default()).unwrap(), WITHIN).await
    };
    let refused = runtime.block_on(async {
        let free = TcpListener::bind((HOST, 0)).await.unwrap().local_addr().unwrap();
        fetch(format!("https://{free}/")).await.unwrap_err().failure
    });
    assert_eq!(refused, Failure::Refused);
    let broken = runtime.block_on(async {
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { drop::<TcpStream>(listener.accept().await.unwrap().0) });
        fetch(url).await.unwrap_err().failure
    });
    assert!(matches!(broken, Failure::Closed(_)), "{broken:?}");
    // What etcd's TLS port does with plain HTTP.
    let closed = runtime.block_on(async {
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            let _read = stream.read(&mut [0; 4096]).await;
        });
        fetch(url).await.unwrap_err().failure
    });
    assert!(matches!(closed, Failure::Closed(_)), "{closed:?}");
}

#[test]
fn a_member_is_believed_by_its_name_at_its_address_only_where_ec2_says_so() {
    let place = Place::new("names");
    let ca = place.ca("ours");
    let by_name = place.leaf("by-name", &ca, &["ip-10-0-0-1.ec2.internal"], YEARS);
    let names = Names::default();
    let trust = Trust::new(signed_by(&ca.0), None, names.clone());
    let shows = || Some(Acceptor::of_files(by_name.clone(), None));
    names.learn("10.0.0.1", vec!["ip-10-0-0-1.ec2.internal".to_owned()]);
    assert!(matches!(meet(shows(), &trust, "https"), Err(Failure::Tls(_))), "it is another host's name");
    names.learn(HOST, vec!["ip-10-0-0-2.ec2.internal".to_owned()]);
    assert!(matches!(meet(shows(), &trust, "https"), Err(Failure::Tls(_))));
    names.learn(HOST, vec!["ip-10-0-0-1.ec2.internal".to_owned()]);
    assert_eq!(meet(shows(), &trust, "https"), Ok(200));
}

#[test]
fn an_automatic_certificate_is_pinned_at_home_and_anything_goes_abroad() {
    let place = Place::new("automatic");
    let ca = place.ca("any");
    let (own, other) = (place.leaf("own", &ca, &["x"], YEARS), place.leaf("other", &ca, &["x"], YEARS));
    let trust = |hosts: &[&str]| {
        let own_hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Trust::new(Believed::Anybody, None, Names::default()).pinning(own_hosts, own.cert.clone())
    };
    let shows = |pair: &KeyFiles| Some(Acceptor::of_files(pair.clone(), None));
    assert_eq!(meet(shows(&own), &trust(&[HOST]), "https"), Ok(200));
    let posing = meet(shows(&other), &trust(&[HOST]), "https");
    assert!(matches!(&posing, Err(Failure::Tls(cause)) if cause.contains("is not the one stored here")), "{posing:?}");
    assert_eq!(meet(shows(&other), &trust(&["10.0.0.9"]), "https"), Ok(200));
}

#[test]
fn a_renewed_certificate_counts_from_the_next_handshake_on() {
    let place = Place::new("renewed");
    let (old, new) = (place.ca("old"), place.ca("new"));
    let pair = place.leaf("leaf", &old, &[HOST], YEARS);
    let acceptor = Acceptor::of_files(pair.clone(), None);
    let believes = |ca: &Path| Trust::new(signed_by(ca), None, Names::default());
    assert_eq!(meet(Some(acceptor.clone()), &believes(&old.0), "https"), Ok(200));
    place.leaf("leaf", &new, &[HOST], YEARS);
    assert_eq!(meet(Some(acceptor.clone()), &believes(&new.0), "https"), Ok(200));
    assert!(matches!(meet(Some(acceptor), &believes(&old.0), "https"), Err(Failure::Tls(_))));
}

/// Both ends of one handshake: what the caller makes of it, and what the server.
fn shake(acceptor: &Acceptor, trust: &Trust) -> [Result<(), String>; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(64 << 10);
        let caller = async { trust.connect(HOST, near).await.map(drop).map_err(|e| e.to_string()) };
        let server = async { acceptor.accept(far).await.map(drop).map_err(|e| e.to_string()) };
        tokio::time::timeout(WITHIN, async { tokio::join!(caller, server).into() }).await.expect("an end")
    })
}

type Spoil = fn(&Path);

/// What lies in a file's place, and what is said of it.
const SPOILT: [(Spoil, &str); 7] = [
    (|file| fs::write(file, vec![b' '; (1 << 20) + 1]).unwrap(), "it is larger than 1 MiB"),
    (|file| fs::create_dir(file).unwrap(), "it is a directory, not a regular file"),
    (|file| nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRWXU).unwrap(), "it is a pipe, not a regular file"),
    (|_| (), "the file does not exist; put it there"),
    (|file| fs::write(file, "\n").unwrap(), "is empty; write it again"),
    (
        |file| fs::write(file, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap(),
        "its PEM is damaged",
    ),
    (|file| fs::write(file, "no PEM").unwrap(), "holds no "),
];

/// Each is read anew at each handshake, so whatever takes its place meanwhile must neither be believed nor hold anybody up; and what
/// is mended counts at once.
#[test]
fn every_file_is_read_at_every_handshake_and_named_when_it_is_bad() {
    let place = Place::new("spoilt");
    let ca = place.ca("ca");
    let (server, client) = (place.leaf("server", &ca, &[HOST], YEARS), place.leaf("client", &ca, &["client"], YEARS));
    let [servers_ca, clients_ca, pin] = ["servers-ca", "clients-ca", "pin"].map(|name| place.0.join(name));
    fs::copy(&ca.0, &servers_ca).unwrap();
    fs::copy(&ca.0, &clients_ca).unwrap();
    fs::copy(&server.cert, &pin).unwrap();
    let acceptor = Acceptor::of_files(server.clone(), demands(&clients_ca));
    let trust = Trust::new(signed_by(&servers_ca), Some(client.clone()), Names::default());
    let pinning = trust.clone().pinning(vec![HOST.to_owned()], pin.clone());
    const CALLER: usize = 0;
    const SERVER: usize = 1;
    for (file, reader, trust) in [
        (&server.cert, SERVER, &trust),
        (&server.key, SERVER, &trust),
        (&clients_ca, SERVER, &trust),
        (&servers_ca, CALLER, &trust),
        (&client.cert, CALLER, &trust),
        (&client.key, CALLER, &trust),
        (&pin, CALLER, &pinning),
    ] {
        let aside = file.with_extension("aside");
        assert_eq!(shake(&acceptor, trust), [Ok(()), Ok(())], "{}", file.display());
        for (spoil, words) in SPOILT {
            fs::rename(file, &aside).unwrap();
            spoil(file);
            let met = shake(&acceptor, trust);
            let said = met[reader].as_ref().unwrap_err();
            assert!(said.starts_with(&format!("{}: ", file.display())) && said.contains(words), "{said}, not: {words}");
            assert!(met[1 - reader].is_err(), "nobody else took it for a connection: {met:?}");
            if file.is_dir() {
                fs::remove_dir(file).unwrap();
            }
            fs::rename(&aside, file).unwrap();
            assert_eq!(shake(&acceptor, trust), [Ok(()), Ok(())], "{} is mended", file.display());
        }
    }
}

#[test]
fn a_certificate_beside_another_key_serves_nobody_until_its_own_is_there() {
    let place = Place::new("swapped");
    let ca = place.ca("ca");
    let (old, new) = (place.leaf("old", &ca, &[HOST], YEARS), place.leaf("new", &ca, &[HOST], YEARS));
    let acceptor = Acceptor::of_files(old.clone(), None);
    let trust = Trust::new(signed_by(&ca.0), None, Names::default());
    fs::copy(&new.cert, &old.cert).unwrap();
    let met = shake(&acceptor, &trust);
    assert!(met.iter().all(Result::is_err), "{met:?}");
    fs::copy(&new.key, &old.key).unwrap();
    assert_eq!(shake(&acceptor, &trust), [Ok(()), Ok(())]);
    // The two files in each other's place.
    fs::copy(&new.key, &old.cert).unwrap();
    let said = shake(&acceptor, &trust)[1].clone().unwrap_err();
    assert!(said.contains("are the certificate's and the key's file swapped?"), "{said}");
}
