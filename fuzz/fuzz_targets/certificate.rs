//! A certificate's DER: no panic, and where another implementation (x509-parser) reads it too, the same facts: times, serial,
//! names, and all that says what it may be used for.
#![cfg_attr(fuzzing, no_main)]

use std::net::IpAddr;

use etcd_muster::net::pki::Certificate;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| holds(data));

pub fn holds(data: &[u8]) {
    let Some(ours) = Certificate::read(data) else { return };
    let lines = [&ours.subject, &ours.issuer, &ours.serial].into_iter().chain(&ours.names);
    assert!(lines.into_iter().all(|text| !text.contains(char::is_control)), "{ours:?}");
    let Ok((rest, theirs)) = X509Certificate::from_der(data) else { return };
    assert!(rest.is_empty(), "what follows a certificate was taken for a part of it");
    let validity = theirs.validity();
    assert_eq!((ours.not_before, ours.not_after), (validity.not_before.timestamp(), validity.not_after.timestamp()));
    // It gives none of an extension that is there twice or that it can't read.
    if let Ok(Some(constraints)) = theirs.basic_constraints() {
        assert_eq!(ours.is_ca, constraints.value.ca, "CA");
    }
    if let Ok(Some(usage)) = theirs.key_usage() {
        assert_eq!(ours.may_sign, usage.value.key_cert_sign(), "keyCertSign");
    }
    if let Ok(Some(usage)) = theirs.extended_key_usage() {
        let usage = usage.value;
        assert_eq!(
            (ours.server_auth, ours.client_auth),
            (usage.server_auth, usage.client_auth),
            "serverAuth, clientAuth"
        );
    }
    if let Ok(Some(names)) = theirs.subject_alternative_name() {
        let names: Vec<String> = names.value.general_names.iter().filter_map(name).collect();
        // It takes a constructed value for a name, too; one that isn't ASCII it leaves out.
        let is_there = |name: &String| names.contains(name) || !name.is_ascii();
        assert!(ours.names.iter().all(is_there), "{:?} are not among {names:?}", ours.names);
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()),
        GeneralName::IPAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from)).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}
