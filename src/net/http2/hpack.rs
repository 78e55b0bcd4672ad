//! The compression of headers in HTTP/2 (RFC 7541): all of what a server may send, and of what a client may send the form without any.

use std::collections::VecDeque;

/// A header: its name, in lower case, and its value.
pub type Header = (Vec<u8>, Vec<u8>);

/// The dynamic table's size that a server may use unless it is told otherwise (RFC 9113, section 6.5.2).
const TABLE_BYTES: usize = 4096;
/// What an entry costs beside its bytes (RFC 7541, section 4.1).
const ENTRY_BYTES: usize = 32;
/// The most that one block's headers may have, decoded.
const MOST_BYTES: usize = 64 << 10;

/// RFC 7541, Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The length of each byte's code, in bits (RFC 7541, Appendix B). The code is canonical: codes of one length follow each other in the
/// order of the bytes, so they need not be stored. That of the end of a text, thirty ones, is never sent.
#[rustfmt::skip]
const CODE_BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
const LONGEST_CODE: u8 = 30;

/// What a server's headers refer to.
#[derive(Debug)]
pub struct Decoder {
    /// The newest first.
    table: VecDeque<Header>,
    used: usize,
    limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), used: 0, limit: TABLE_BYTES }
    }
}

impl Decoder {
    /// The headers of a whole block; `None`: it can't be read.
    pub fn decode(&mut self, mut block: &[u8]) -> Option<Vec<Header>> {
        let mut headers = Vec::new();
        let mut total = 0;
        while let Some(&first) = block.first() {
            let header = match first {
                // Indexed.
                0x80.. => self.entry(integer(&mut block, 7)?)?,
                // Literal, and from now on in the table.
                0x40.. => {
                    let header = self.literal(&mut block, 6)?;
                    self.keep(header.clone());
                    header
                }
                // The table's size.
                0x20.. => {
                    self.limit = usize::try_from(integer(&mut block, 5)?).ok().filter(|&size| size <= TABLE_BYTES)?;
                    self.shrink(self.limit);
                    continue;
                }
                // Literal.
                _ => self.literal(&mut block, 4)?,
            };
            total += header.0.len() + header.1.len() + ENTRY_BYTES;
            if total > MOST_BYTES {
                return None;
            }
            headers.push(header);
        }
        Some(headers)
    }

    fn literal(&self, block: &mut &[u8], prefix: u8) -> Option<Header> {
        let name = match integer(block, prefix)? {
            0 => text(block)?,
            index => self.entry(index)?.0,
        };
        Some((name, text(block)?))
    }

    fn entry(&self, index: u64) -> Option<Header> {
        let at = usize::try_from(index).ok()?.checked_sub(1)?;
        match STATIC.get(at) {
            Some((name, value)) => Some((name.as_bytes().to_vec(), value.as_bytes().to_vec())),
            None => self.table.get(at - STATIC.len()).cloned(),
        }
    }

    /// An entry larger than the table empties it (RFC 7541, section 4.4).
    fn keep(&mut self, header: Header) {
        let size = header.0.len() + header.1.len() + ENTRY_BYTES;
        self.shrink(self.limit.saturating_sub(size));
        if size <= self.limit {
            self.used += size;
            self.table.push_front(header);
        }
    }

    fn shrink(&mut self, limit: usize) {
        while self.used > limit {
            let Some((name, value)) = self.table.pop_back() else { return };
            self.used -= name.len() + value.len() + ENTRY_BYTES;
        }
    }
}

/// RFC 7541, section 5.1.
fn integer(block: &mut &[u8], prefix: u8) -> Option<u64> {
    let mask = (1_u8 << prefix) - 1;
    let mut value = u64::from(take(block)? & mask);
    if value < u64::from(mask) {
        return Some(value);
    }
    // More bits than these no length or index here can need.
    for shift in [0, 7, 14, 21] {
        let byte = take(block)?;
        value += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// RFC 7541, section 5.2.
fn text(block: &mut &[u8]) -> Option<Vec<u8>> {
    let is_coded = block.first()? & 0x80 != 0;
    let length = usize::try_from(integer(block, 7)?).ok()?;
    let (bytes, rest) = block.split_at_checked(length)?;
    *block = rest;
    if is_coded { decoded(bytes) } else { Some(bytes.to_vec()) }
}

fn take(block: &mut &[u8]) -> Option<u8> {
    let (&first, rest) = block.split_first()?;
    *block = rest;
    Some(first)
}

fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(bytes.len() * 2);
    let (mut code, mut length) = (0_u32, 0_u8);
    // Of the codes of this length: the first one, and how many bytes have shorter ones.
    let mut first = 0;
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1)) {
        code = code << 1 | u32::from(bit);
        first <<= 1;
        length += 1;
        if length > LONGEST_CODE {
            return None;
        }
        let count = CODE_BITS.iter().filter(|&&bits| bits == length).count() as u32;
        if code >= first && code - first < count {
            let nth = (code - first) as usize;
            let byte = (0..=u8::MAX).filter(|&byte| CODE_BITS[usize::from(byte)] == length).nth(nth)?;
            text.push(byte);
            (code, length, first) = (0, 0, 0);
        } else {
            first += count;
        }
    }
    // What is left is the beginning of thirty ones, and shorter than a byte (RFC 7541, section 5.2).
    (length < 8 && code == (1 << length) - 1).then_some(text)
}

/// Appends a header as it is, never to be stored in a table: it may be a token.
pub fn put(name: &str, value: &[u8], block: &mut Vec<u8>) {
    block.push(0x10);
    put_text(name.as_bytes(), block);
    put_text(value, block);
}

fn put_text(text: &[u8], block: &mut Vec<u8>) {
    let mut length = text.len();
    if length < 0x7f {
        block.push(length as u8);
    } else {
        block.push(0x7f);
        length -= 0x7f;
        while length >= 0x80 {
            block.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        block.push(length as u8);
    }
    block.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn lines(headers: Option<Vec<Header>>) -> Vec<String> {
        let line = |(name, value): Header| {
            format!("{}: {}", String::from_utf8(name).unwrap(), String::from_utf8(value).unwrap())
        };
        headers.unwrap().into_iter().map(line).collect()
    }

    /// RFC 7541, Appendix C.6: three answers on one connection, with Huffman's code, and a table of 256 bytes that overflows.
    #[test]
    fn the_rfcs_own_answers_are_read() {
        let mut decoder = Decoder { limit: 256, ..Decoder::default() };
        let date = |second| format!("date: Mon, 21 Oct 2013 20:13:{second} GMT");
        let location = "location: https://www.example.com";
        let first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        let found = lines(decoder.decode(&bytes(first)));
        assert_eq!(found, [":status: 302", "cache-control: private", &date(21), location]);
        let found = lines(decoder.decode(&bytes("4883 640e ffc1 c0bf")));
        assert_eq!(found, [":status: 307", "cache-control: private", &date(21), location]);
        let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
        let found = lines(decoder.decode(&bytes(third)));
        let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
        let expected =
            [":status: 200", "cache-control: private", &date(22), location, "content-encoding: gzip", cookie];
        assert_eq!(found, expected);
        assert_eq!((decoder.table.len(), decoder.used), (3, 215), "as the RFC has it");
    }

    #[test]
    fn what_is_sent_is_read_back() {
        let mut block = Vec::new();
        let sent =
            [("te", b"trailers".to_vec()), ("token", vec![b'x'; 0x7f]), ("empty", vec![]), ("long", vec![b'y'; 5000])];
        sent.iter().for_each(|(name, value)| put(name, value, &mut block));
        let found = Decoder::default().decode(&block).unwrap();
        let expected: Vec<Header> = sent.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_not_compressed_headers_is_none() {
        for bad in [
            "80",
            "ff",
            "ffffffffffff",
            "be",
            "c0",
            "40",
            "4001",
            "4081ff",
            "0004616263",
            "3fe21f",
            "00 84 ffffffff 00",
            "00 81 fe 00",
        ] {
            assert_eq!(Decoder::default().decode(&bytes(bad)), None, "{bad}");
        }
        // One that decodes into far more than it is: a large entry, and then its index, again and again.
        let mut bomb = vec![0x40, 1, b'a'];
        put_text(&[b'x'; 4000], &mut bomb);
        bomb.extend([0xbe; 100]);
        assert_eq!(Decoder::default().decode(&bomb), None);
        // No bits are anything but headers or none.
        let mut state = 1_u32;
        for _ in 0..20_000 {
            let block: Vec<u8> = (0..24)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            let _either = Decoder::default().decode(&block);
        }
    }

    #[test]
    fn a_table_forgets_its_oldest_entries_and_never_holds_more_than_it_may() {
        let mut decoder = Decoder::default();
        for number in 0..200 {
            let mut block = vec![0x40];
            put_text(b"name", &mut block);
            put_text(format!("{number:060}").as_bytes(), &mut block);
            decoder.decode(&block).unwrap();
            assert!(decoder.used <= TABLE_BYTES);
        }
        assert_eq!(decoder.table.len(), TABLE_BYTES / (64 + ENTRY_BYTES));
        assert_eq!(lines(decoder.decode(&[0xbe])), [format!("name: {:060}", 199)]);
        let mut huge = vec![0x40];
        put_text(b"name", &mut huge);
        put_text(&[b'x'; TABLE_BYTES], &mut huge);
        decoder.decode(&huge).unwrap();
        assert_eq!((decoder.table.len(), decoder.used), (0, 0));
    }
}
