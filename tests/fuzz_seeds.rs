//! What the fuzz targets hold, on every seed and on every input that once broke one (`fuzz/corpus_seed/`). `scripts/fuzz` looks for
//! more.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

#[path = "../fuzz/fuzz_targets/certificate.rs"]
mod certificate;
mod common;
#[path = "../fuzz/fuzz_targets/config.rs"]
mod config;
#[path = "../fuzz/fuzz_targets/ec2_xml.rs"]
mod ec2_xml;
#[path = "../fuzz/fuzz_targets/http_answer.rs"]
mod http_answer;
#[path = "../fuzz/fuzz_targets/imds_and_json.rs"]
mod imds_and_json;
#[path = "../fuzz/fuzz_targets/pem.rs"]
mod pem;
#[path = "../fuzz/fuzz_targets/roll_call.rs"]
mod roll_call;
#[path = "../fuzz/fuzz_targets/roster.rs"]
mod roster;
#[path = "../fuzz/fuzz_targets/tls_hello.rs"]
mod tls_hello;
#[path = "../fuzz/fuzz_targets/wal.rs"]
mod wal;

use std::fs;
use std::path::Path;

/// One test for each target, so that all of them are run whatever fails.
macro_rules! replayed {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), $target::holds);
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let targets = names(&fuzz().join("fuzz_targets"));
            let replayed = [$(concat!(stringify!($target), ".rs")),*];
            assert_eq!(targets, replayed.map(str::to_owned));
        }
    };
}

replayed! { certificate config ec2_xml http_answer imds_and_json pem roll_call roster tls_hello wal }

fn replay(target: &str, holds: impl Fn(&[u8])) {
    let dir = fuzz().join("corpus_seed").join(target);
    let seeds = names(&dir);
    assert!(!seeds.is_empty(), "{target} has no seeds");
    holds(&[]);
    for seed in seeds {
        let input = fs::read(dir.join(&seed)).unwrap();
        // Shown where it fails: which of them it was.
        println!("{target}/{seed}");
        holds(&input);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
}
