//! The part of DER (ITU-T X.690) that certificates need: reading for messages, writing for what we issue.
//!
//! Nothing is trusted because of this reader: webpki verifies chains, names and usages.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

// Identifier octets: X.690, section 8.1.2; the universal tags are X.680's, section 8.6.
pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OID: u8 = 0x06;
pub const UTF8_STRING: u8 = 0x0c;
pub const UTC_TIME: u8 = 0x17;
pub const GENERALIZED_TIME: u8 = 0x18;
pub const BMP_STRING: u8 = 0x1e;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;

/// The tag `[number]` of a constructed field.
pub const fn constructed(number: u8) -> u8 {
    0xa0 | number
}

/// The tag `[number]` of a primitive field.
pub const fn primitive(number: u8) -> u8 {
    0x80 | number
}

/// Values one after the other. `None` from any method: this is not what is expected here.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

/// One value.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    /// Tag, length and content.
    pub whole: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next value, of any tag.
    pub fn any(&mut self) -> Option<Value<'a>> {
        let (&tag, after_tag) = self.0.split_first()?;
        let (&first, after_length) = after_tag.split_first()?;
        let (length, rest) = match first {
            short @ 0..=0x7f => (usize::from(short), after_length),
            // 0x80 is BER's indefinite form. Up to four octets: no PEM block is larger than 4 GiB.
            long @ 0x81..=0x84 => {
                let (octets, rest) = after_length.split_at_checked(usize::from(long & 0x7f))?;
                (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Value { tag, content, whole })
    }

    /// The next value, which must have that tag.
    pub fn value(&mut self, tag: u8) -> Option<Value<'a>> {
        self.any().filter(|value| value.tag == tag)
    }

    /// The content of the next value, which must have that tag.
    pub fn inside(&mut self, tag: u8) -> Option<Self> {
        Some(Self(self.value(tag)?.content))
    }

    /// The next value if it has that tag; otherwise nothing is consumed.
    pub fn optional(&mut self, tag: u8) -> Option<Option<Value<'a>>> {
        if self.0.first() == Some(&tag) { self.any().map(Some) } else { Some(None) }
    }

    /// A UTCTime or GeneralizedTime as RFC 5280, section 4.1.2.5, has them, in seconds since the epoch.
    pub fn time(&mut self) -> Option<i64> {
        let value = self.any()?;
        let digits = std::str::from_utf8(value.content).ok()?.strip_suffix('Z')?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (year, rest): (i32, _) = match (value.tag, digits.len()) {
            (UTC_TIME, 12) => {
                let year = digits[..2].parse::<i32>().ok()?;
                (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
            }
            (GENERALIZED_TIME, 14) => (digits[..4].parse().ok()?, &digits[4..]),
            _ => return None,
        };
        let part = |n: usize| rest[2 * n..2 * n + 2].parse::<u8>().ok();
        let date = Date::from_calendar_date(year, Month::try_from(part(0)?).ok()?, part(1)?).ok()?;
        let time = Time::from_hms(part(2)?, part(3)?, part(4)?).ok()?;
        Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
    }
}

/// A value with that content.
pub fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let octets = length.to_be_bytes();
        let significant = &octets[length.leading_zeros() as usize / 8..];
        out.push(0x80 | significant.len() as u8);
        out.extend(significant);
    }
    out.extend(content);
    out
}

/// A value that contains those.
pub fn holding(tag: u8, values: &[Vec<u8>]) -> Vec<u8> {
    value(tag, &values.concat())
}

/// A BIT STRING of whole octets.
pub fn bit_string(octets: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], octets].concat())
}

/// A time in the form that RFC 5280, section 4.1.2.5, requires; `None`: beyond the year 9999.
pub fn time(epoch_seconds: i64) -> Option<Vec<u8>> {
    let moment = OffsetDateTime::from_unix_timestamp(epoch_seconds).ok()?;
    let (year, month, day) = moment.to_calendar_date();
    let (hour, minute, second) = moment.to_hms();
    let rest = format!("{:02}{day:02}{hour:02}{minute:02}{second:02}Z", u8::from(month));
    match year {
        1950..2050 => Some(value(UTC_TIME, format!("{:02}{rest}", year % 100).as_bytes())),
        0..=9999 => Some(value(GENERALIZED_TIME, format!("{year:04}{rest}").as_bytes())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_of_every_form() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let content = vec![7; length];
            let written = value(OCTET_STRING, &content);
            let mut reader = Reader(&written);
            let read = reader.any().unwrap();
            assert!(read.tag == OCTET_STRING && read.content == content && read.whole == written && reader.is_empty());
        }
        assert_eq!(value(OCTET_STRING, &[0; 0x80])[..3], [4, 0x81, 0x80]);
    }

    #[test]
    fn times_change_their_form_in_2050() {
        let text = |epoch| String::from_utf8(time(epoch).unwrap()[2..].to_vec()).unwrap();
        assert_eq!(text(1_450_781_045), "151222104405Z");
        assert_eq!(text(2_524_607_999), "491231235959Z");
        assert_eq!(text(2_524_608_000), "20500101000000Z");
        assert_eq!(time(i64::MAX), None);
        assert_eq!(Reader(b"\x17\x0d500101000000Z").time(), Some(-631_152_000));
        assert_eq!(Reader(b"\x17\x0d501301000000Z").time(), None);
    }

    proptest! {
        #[test]
        fn times_read_as_written(epoch in -631_152_000_i64..253_402_300_799) {
            prop_assert_eq!(Reader(&time(epoch).unwrap()).time(), Some(epoch));
        }

        #[test]
        fn anything_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader(&bytes);
            while reader.any().is_some() {}
            let _ = Reader(&bytes).time();
        }
    }
}
