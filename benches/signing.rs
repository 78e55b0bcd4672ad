//! Signed requests a second: ours, aws-sigv4's own `sign` for the same request, and the hashes alone that SigV4 demands of it.
//!
//!     cargo bench --bench signing -- [ROUNDS]
//!
//! Prints CPU seconds of each round. The hashes are SHA-256 of the body and of the canonical request, four HMACs for the key and
//! one for the signature ("Create a signed AWS API request", steps 1 to 4), by the crates that aws-sigv4 hashes with.

mod common;

use std::hint::black_box;
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use etcd_muster::aws::sigv4::{Scope, Service, sign_request};
use etcd_muster::net::http::Outgoing;
use hmac::{Hmac, KeyInit, Mac};
use hyper::Request;
use serde_json::json;
use sha2::{Digest, Sha256};

const REQUESTS: usize = 500; // a round
const REGION: &str = "eu-west-1";
const URI: &str = "https://ec2.eu-west-1.amazonaws.com/";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const BODY: &[u8] =
    b"Action=DescribeInstances&Version=2016-11-15&MaxResults=1000&Filter.1.Name=tag%3Aetcd&Filter.1.Value.1=1";
/// What SigV4 has hashed of such a request: its canonical form, and the string to sign.
const CANONICAL_BYTES: usize = 330;
const STRING_TO_SIGN_BYTES: usize = 134;

fn main() {
    let rounds = common::arguments().first().map_or(20, |text| text.parse().expect("a number of rounds"));
    let credentials = Credentials::new("AKIDEXAMPLE", SECRET, None, None, "bench");
    let seconds = common::interleaved(
        rounds,
        &mut [
            &mut || (0..REQUESTS).for_each(|_| _ = black_box(ours(&credentials))),
            &mut || (0..REQUESTS).for_each(|_| _ = black_box(sigv4_alone(&credentials))),
            &mut || (0..REQUESTS).for_each(|_| _ = black_box(hashes_alone())),
        ],
    );
    println!("{}", json!({"requests": REQUESTS, "ours": seconds[0], "sigv4": seconds[1], "hashes": seconds[2]}));
}

/// As a call is made: the request, and its signature in it.
fn ours(credentials: &Credentials) -> Outgoing {
    let request = Request::post(URI).header(FORM.0, FORM.1).body(BODY.into());
    let mut request: Outgoing = request.expect("a request");
    let scope = Scope { region: REGION, service: Service::Ec2, clock_offset: 0 };
    sign_request(&mut request, BODY, credentials, &scope).expect("a signature");
    request
}

fn sigv4_alone(credentials: &Credentials) -> String {
    let identity = credentials.clone().into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name("ec2")
        .time(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .settings(SigningSettings::default());
    let params = params.build().expect("all is given").into();
    let signable = SignableRequest::new("POST", URI, std::iter::once(FORM), SignableBody::Bytes(BODY));
    sign(signable.expect("a request"), &params).expect("a signature").into_parts().1
}

fn hashes_alone() -> [u8; 32] {
    black_box(Sha256::digest(black_box(BODY)));
    black_box(Sha256::digest(black_box([0u8; CANONICAL_BYTES])));
    let mut key = hmac(format!("AWS4{SECRET}").as_bytes(), b"20231114");
    for part in [REGION.as_bytes(), b"ec2", b"aws4_request", &[0; STRING_TO_SIGN_BYTES]] {
        key = hmac(&key, black_box(part));
    }
    key
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
    mac.update(data);
    mac.finalize().into_bytes().into()
}
