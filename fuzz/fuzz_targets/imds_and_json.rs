//! What the metadata service, Parameter Store and S3 answer, and the dates in all of them: no panic, no secret in what is said of a
//! bad answer, and what is read is what was written.
#![cfg_attr(fuzzing, no_main)]

use etcd_muster::aws::imds::IdentityDocument;
use etcd_muster::aws::{credentials, ssm};
use etcd_muster::core::paxos::Ledger;
use etcd_muster::core::view::Claim;
use etcd_muster::util::clock;
use serde_json::Value;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| holds(data));

/// In the seeds every secret holds this.
const SECRET: &str = "hunter2";

pub fn holds(data: &[u8]) {
    _ = serde_json::from_slice::<IdentityDocument>(data);
    claim(data);
    ledger(data);
    parameter(data);
    if let Ok(text) = std::str::from_utf8(data) {
        role(text);
        dates(text);
    }
}

fn role(text: &str) {
    let document = serde_json::from_str::<Value>(text).unwrap_or_default();
    let shown = match credentials::parse(text, "role") {
        Ok(held) => {
            assert!(document["AccessKeyId"].is_string() && document["SecretAccessKey"].is_string());
            assert!(document["Code"].is_null() || document["Code"] == "Success", "a refusal was taken for credentials");
            format!("{held:?}")
        }
        Err(error) => format!("{error} {error:?}"),
    };
    // What AWS says of a refusal is no secret.
    let spoken = ["Code", "Message"].map(|key| document[key].to_string()).concat();
    assert!(spoken.contains(SECRET) || !shown.contains(SECRET), "{shown}");
}

fn parameter(data: &[u8]) {
    match ssm::read_value(data) {
        Ok(secret) => {
            // In what isn't wanted there may be anything, also what is no text.
            let document: Value = serde_json::from_str(&String::from_utf8_lossy(data)).unwrap_or_default();
            assert_eq!(document["Parameter"]["Value"], secret.expose());
            assert!(!format!("{secret:?}").contains(SECRET));
        }
        Err(error) => assert!(!error.contains(SECRET), "{error}"),
    }
    let header = String::from_utf8_lossy(data).into_owned();
    for error in [ssm::read_error(None, data), ssm::read_error(Some(header), data)].into_iter().flatten() {
        assert!(!error.code.contains([':', '#']), "{error:?}");
    }
}

fn claim(data: &[u8]) {
    if let Ok(claim) = serde_json::from_slice::<Claim>(data) {
        let written = serde_json::to_vec(&claim).expect("JSON");
        assert_eq!(serde_json::from_slice::<Claim>(&written).expect("our own JSON"), claim);
    }
}

fn ledger(data: &[u8]) {
    if let Ok(ledger) = serde_json::from_slice::<Ledger>(data) {
        let written = serde_json::to_vec(&ledger).expect("JSON");
        assert_eq!(serde_json::from_slice::<Ledger>(&written).expect("our own JSON"), ledger);
    }
}

fn dates(text: &str) {
    _ = clock::parse_http_date(text);
    // Before the year 0 and after 9999 there is no such form.
    if let Some(epoch) = clock::parse_rfc3339(text).filter(|epoch| !clock::rfc3339(*epoch).ends_with("after 1970")) {
        assert_eq!(clock::parse_rfc3339(&clock::rfc3339(epoch)), Some(epoch));
    }
}
