//! The head of a file in etcd's WAL directory, and the data around it: no panic; a file that ends in .wal is data whatever is in it;
//! ids that are read are the ones whose bytes are there.
#![cfg_attr(fuzzing, no_main)]

use std::fs;

use etcd_muster::core::types::Known;
use etcd_muster::core::view::DataDir;
use etcd_muster::etcd::data_dir::Paths;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| holds(data));

pub fn holds(data: &[u8]) {
    let top = std::env::temp_dir().join(format!("etcd-muster-wal-{:016x}", etcd_muster::util::clock::random()));
    let paths = Paths::on_volumes(&top.join("data"), &top.join("wal"), None);
    fs::create_dir_all(top.join("wal/wal")).expect("a directory");
    fs::create_dir_all(top.join("data/member/snap")).expect("a directory");
    fs::write(top.join("wal/wal/0000000000000000-0000000000000000.wal"), data).expect("a WAL");
    fs::write(top.join("data/member/snap/db"), []).expect("a backend");
    let found = paths.inspect();
    remove(&top);
    match found.expect("it can be read") {
        DataDir::Whole { ids: Known::Unknown(cause) } => assert!(!cause.is_empty()),
        DataDir::Whole { ids: Known::Known((cluster, member)) } => {
            for id in [cluster.0, member.0] {
                assert!(id < 0x80 || holds_varint(data, id), "{id:x} is nowhere in it");
            }
        }
        other => panic!("a WAL and a backend are {other:?}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "made by this test")]
fn remove(top: &std::path::Path) {
    _ = fs::remove_dir_all(top);
}

/// Whether that number stands there as a varint, in whatever length.
fn holds_varint(data: &[u8], number: u64) -> bool {
    (0..data.len()).any(|at| {
        let mut value = 0_u64;
        for (n, byte) in data[at..].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f).checked_shl(7 * n as u32).unwrap_or(0);
            if byte & 0x80 == 0 {
                break;
            }
        }
        value == number
    })
}
