//! Whatever a caller of the roll call sends in place of a TLS handshake, where anybody and where only a certified caller is let in:
//! no panic, no hang, and nobody is let in who replays bytes.
#![cfg_attr(fuzzing, no_main)]

use std::path::PathBuf;
use std::time::Duration;

use etcd_muster::net::tls::{Acceptor, Demands, KeyFiles};
use tokio::io::AsyncWriteExt;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| holds(data));

/// In memory a handshake takes some milliseconds.
const HANG: Duration = Duration::from_secs(5);

pub fn holds(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let demands = Demands { ca: fixture("ca.pem"), revoked: None, common_names: Vec::new(), hosts: Vec::new() };
    for demands in [None, Some(demands)] {
        let files = KeyFiles { cert: fixture("chain.pem"), key: fixture("node.key") };
        let acceptor = Acceptor::of_files(files, demands);
        runtime.block_on(async {
            let (mut caller, server) = tokio::io::duplex(1 << 20);
            caller.write_all(data).await.expect("a buffer that holds it");
            caller.shutdown().await.expect("an end");
            let accepted = tokio::time::timeout(HANG, acceptor.accept(server)).await.expect("a hang");
            let error = accepted.expect_err("a handshake takes what the server has just made up");
            // As the log has it.
            _ = etcd_muster::net::tls::explain(&error);
        });
    }
}

fn fixture(name: &str) -> PathBuf {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let fuzz =
        if crates.ends_with("fuzz") && crates.join("fuzz_targets").exists() { crates } else { crates.join("fuzz") };
    fuzz.join("fixtures").join(name)
}
