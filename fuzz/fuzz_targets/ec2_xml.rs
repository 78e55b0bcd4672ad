//! Pages of EC2's Query API, and every service's errors: no panic; the same page however its bytes are cut into reads; and never a
//! short listing: what ends early is an error, or says all that the whole says.
#![cfg_attr(fuzzing, no_main)]

use std::io::BufReader;

use etcd_muster::aws::xml::{Malformed, Page, read_page};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| holds(data));

pub fn holds(data: &[u8]) {
    let Ok(page) = read(data, data.len().max(1)) else { return };
    for buffer in [1, 7] {
        let in_pieces = read(data, buffer).expect("it was read in one piece");
        assert_eq!(in_pieces, page, "in pieces of {buffer}");
    }
    assert!(page.instances.iter().all(|described| !described.instance.id.0.is_empty()));
    // Wherever an element ends the page might be taken for whole.
    let ends = data.iter().enumerate().filter(|(_, byte)| **byte == b'>').map(|(at, _)| at + 1);
    for end in ends.filter(|end| *end < data.len()).take(64) {
        if let Ok(short) = read(&data[..end], data.len()) {
            assert_eq!(short, page, "cut at {end}");
        }
    }
}

fn read(text: &[u8], buffer: usize) -> Result<Page, Malformed> {
    read_page(BufReader::with_capacity(buffer, text)).inspect_err(|error| _ = error.to_string())
}
