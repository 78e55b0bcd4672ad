//! Certificates over months: tokio's clock is put forward, and the wall clock with it. In between it goes on by itself, since files
//! are read on threads of their own.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use time::OffsetDateTime;

use super::*;
use crate::daemon::test_support::{REFUSING, config, services};
use crate::net::scripted::{Reply, Scripted};
use crate::util::overheard;
use crate::util::scratch::Scratch;

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn forward(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

fn valid_for(params: &mut CertificateParams, days: i64) {
    let moment = |epoch| OffsetDateTime::from_unix_timestamp(epoch).unwrap();
    params.not_before = moment(clock::epoch() - 3600);
    params.not_after = moment(clock::epoch() + days * 24 * 3600);
}

fn ca(days: i64) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    valid_for(&mut params, days);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params, KeyPair::generate().unwrap())
}

/// A directory with a CA's certificate and key, valid for so many days.
fn with_ca(days: i64) -> Scratch {
    overheard::listen();
    let (scratch, (params, key)) = (Scratch::make(), ca(days));
    scratch.write("ca.crt", &params.self_signed(&key).unwrap().pem());
    scratch.write("ca.key", &key.serialize_pem());
    scratch
}

/// A manager with these settings; paths are in that directory.
fn manager(scratch: &Scratch, aws: &str, settings: &[(&str, &str)]) -> (CertificateManager, StatusRecorder) {
    let placed = |value: &str| value.replace("$DIR", &scratch.path().display().to_string());
    let basic = [("ED_DATA", "$DIR/data"), ("PEER_SCHEMA", "https")];
    let settings: Vec<_> = basic.iter().chain(settings).map(|(name, value)| (*name, placed(value))).collect();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let config = config(aws, &settings);
    let ssm = services(&config).ssm;
    let address = [10, 0, 0, 1].into();
    let identity = Identity { instance: "i-a".to_owned(), region: None, address, hostname: None, partition: None };
    let recorder = StatusRecorder::new(DAY * 365);
    (CertificateManager::new(config.etcd, identity, ssm, recorder.clone()), recorder)
}

const MINTED: [(&str, &str); 2] = [("MUSTER_CA_CERT", "$DIR/ca.crt"), ("MUSTER_CA_KEY", "$DIR/ca.key")];

/// Until when the peer port's certificate is valid, in days from now.
fn days_left(recorder: &StatusRecorder) -> i64 {
    let certificates = recorder.snapshot().certificates;
    let peer = certificates.iter().find(|certificate| certificate.side == "peer").unwrap();
    (peer.not_after.unwrap() - clock::epoch() + 12 * 3600) / (24 * 3600)
}

#[tokio::test]
async fn a_leaf_is_made_once_and_renewed_after_two_thirds_of_its_life() {
    let scratch = with_ca(3650);
    let (mut manager, recorder) = manager(&scratch, REFUSING, &MINTED);
    manager.prepare().await.unwrap();
    manager.prepare().await.unwrap();
    assert_eq!((overheard::count("for 10.0.0.1,"), days_left(&recorder)), (1, 90), "{:?}", overheard::lines());
    forward(DAY * 59).await;
    manager.renew_if_due().await;
    assert_eq!((overheard::count("issued certificate"), days_left(&recorder)), (1, 31));
    forward(DAY * 2).await;
    manager.renew_if_due().await;
    assert_eq!((overheard::count("issued certificate"), days_left(&recorder)), (2, 90));
}

#[tokio::test]
async fn rounds_are_a_minute_apart_and_a_renewal_is_never_late() {
    let scratch = with_ca(3650);
    let settings = [MINTED[0], MINTED[1], ("MUSTER_CERT_VALIDITY", "30s")];
    let (mut manager, _) = manager(&scratch, REFUSING, &settings);
    manager.prepare().await.unwrap();
    let pause = manager.due - clock::now();
    assert!((Duration::from_secs(1)..Duration::from_secs(25)).contains(&pause), "its renewal is near: {pause:?}");
    let scratch = with_ca(3650);
    let (mut manager, _) = self::manager(&scratch, REFUSING, &MINTED);
    manager.prepare().await.unwrap();
    assert!(manager.due - clock::now() > ROUND - Duration::from_secs(30));
    let due = manager.due;
    manager.renew_if_due().await;
    assert_eq!(manager.due, due, "nothing is done before");
}

#[tokio::test]
async fn without_the_cas_key_the_leaf_serves_on_and_is_renewed_once_it_is_back() {
    let scratch = with_ca(3650);
    let (mut manager, recorder) = manager(&scratch, REFUSING, &MINTED);
    manager.prepare().await.unwrap();
    let (key, away) = (scratch.path().join("ca.key"), scratch.path().join("away"));
    fs::rename(&key, &away).unwrap();
    forward(ROUND).await;
    manager.renew_if_due().await;
    assert_eq!(overheard::count("it is needed for the renewal"), 1, "said while there is time");
    forward(DAY * 61).await;
    for _ in 0..3 {
        manager.renew_if_due().await;
        forward(ROUND).await;
    }
    assert_eq!(overheard::count("can't be renewed and stays in use until it expires"), 1, "{:?}", overheard::lines());
    manager.prepare().await.expect("a start isn't held up by one that is merely due");
    fs::rename(&away, &key).unwrap();
    forward(ROUND).await;
    manager.renew_if_due().await;
    assert_eq!((overheard::count("issued certificate"), days_left(&recorder)), (2, 90));
}

#[tokio::test]
async fn an_expired_leaf_that_cannot_be_made_anew_holds_the_start_and_says_why() {
    let scratch = with_ca(3650);
    let (mut manager, _) = manager(&scratch, REFUSING, &MINTED);
    manager.prepare().await.unwrap();
    let (key, away) = (scratch.path().join("ca.key"), scratch.path().join("away"));
    fs::rename(&key, &away).unwrap();
    forward(DAY * 91).await;
    let why = manager.prepare().await.unwrap_err();
    assert!(why.contains("MUSTER_CA_KEY=") && why.contains("ca.key"), "{why}");
    fs::rename(&away, &key).unwrap();
    manager.prepare().await.unwrap();
}

/// etcd reads its CA once: a leaf of another would be believed by nobody.
#[tokio::test]
async fn under_a_ca_that_etcd_has_not_read_no_leaf_is_made() {
    let scratch = with_ca(3650);
    let (mut manager, _) = manager(&scratch, REFUSING, &MINTED);
    manager.prepare().await.unwrap();
    let (params, key) = ca(3650);
    scratch.write("ca.crt", &params.self_signed(&key).unwrap().pem());
    scratch.write("ca.key", &key.serialize_pem());
    forward(DAY * 61).await;
    manager.renew_if_due().await;
    assert_eq!(
        (overheard::count("issued certificate"), overheard::count("has changed, but etcd reads it only at start")),
        (1, 1)
    );
    manager.prepare().await.unwrap();
    assert_eq!(overheard::count("issued certificate"), 2, "at the next start it is");
}

#[tokio::test]
async fn the_key_in_parameter_store_is_asked_for_until_it_is_given_and_then_kept() {
    let scratch = with_ca(3650);
    let key = fs::read_to_string(scratch.path().join("ca.key")).unwrap();
    let denied = r#"{"__type": "AccessDeniedException", "message": "not allowed"}"#.to_owned();
    let given = serde_json::json!({"Parameter": {"Name": "/ca", "Value": key}}).to_string();
    let aws = Scripted::start(move |_, before| match before {
        0 => Reply::Answer(400, denied.clone()),
        _ => Reply::ok(&given),
    })
    .await;
    let (mut manager, _) = manager(&scratch, &aws.url, &[MINTED[0], ("MUSTER_CA_KEY", "ssm:/ca")]);
    let why = manager.prepare().await.unwrap_err();
    assert!(why.contains("MUSTER_CA_KEY=ssm:/ca: ") && why.contains("ssm:GetParameter"), "{why}");
    manager.prepare().await.unwrap();
    forward(DAY * 61).await;
    manager.renew_if_due().await;
    assert_eq!((overheard::count("issued certificate"), aws.asked().len()), (2, 2), "asked twice, refused once");
}

/// Certificates that an operator put there.
#[tokio::test]
async fn what_an_operator_must_renew_is_said_a_month_ahead_and_once_a_day() {
    let (scratch, (ca, ca_key)) = (with_ca(3650), ca(3650));
    let issuer_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let mut leaf = CertificateParams::new(vec!["10.0.0.1".to_owned()]).unwrap();
    valid_for(&mut leaf, 40);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let leaf_key = KeyPair::generate().unwrap();
    scratch.write("peer.crt", &leaf.signed_by(&leaf_key, &issuer).unwrap().pem());
    scratch.write("peer.key", &leaf_key.serialize_pem());
    scratch.write("peer_ca.crt", &issuer_pem);
    let (mut manager, recorder) = manager(&scratch, REFUSING, &[("ED_SSL", "$DIR")]);
    manager.prepare().await.unwrap();
    assert_eq!((overheard::count("replace it before"), days_left(&recorder)), (0, 40));
    forward(DAY * 11).await;
    for _ in 0..5 {
        manager.renew_if_due().await;
        forward(ROUND).await;
    }
    assert_eq!(overheard::count("peer.crt: expires on"), 1, "{:?}", overheard::lines());
    forward(REMINDER).await;
    manager.renew_if_due().await;
    assert_eq!(overheard::count("peer.crt: expires on"), 2);
    forward(DAY * 30).await;
    let why = manager.prepare().await.unwrap_err();
    assert!(why.contains("peer.crt") && why.contains("expired"), "{why}");
}
