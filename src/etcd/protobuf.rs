//! As much of protobuf as etcd's messages and files need: fields that are numbers, bytes, or messages.

/// A field's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value<'a> {
    Number(u64),
    /// A string, bytes, a message, or a number of a fixed length.
    Bytes(&'a [u8]),
}

/// A message's fields, by number, in their order (protobuf.dev, "Encoding"). The end of what can be read is a last `None`.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.bytes(8)?),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(usize::try_from(length).ok()?)?)
            }
            5 => Value::Bytes(self.bytes(4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for place in 0..10 {
            let byte = self.bytes(1)?[0];
            let bits = u64::from(byte & 0x7f);
            // Of the tenth byte one bit is left.
            if place == 9 && bits > 1 {
                return None;
            }
            value |= bits << (7 * place);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

/// Appends a number.
pub(super) fn put_varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_the_format_has_them() {
        // protobuf.dev, "Encoding": 150 in field 1; "testing" in field 2; then a fixed32 and a fixed64.
        let message = b"\x08\x96\x01\x12\x07testing\x1d\x01\x02\x03\x04\x21\x01\x02\x03\x04\x05\x06\x07\x08";
        let found: Option<Vec<_>> = Fields(message).collect();
        let expected = [
            (1, Value::Number(150)),
            (2, Value::Bytes(b"testing")),
            (3, Value::Bytes(&[1, 2, 3, 4])),
            (4, Value::Bytes(&[1, 2, 3, 4, 5, 6, 7, 8])),
        ];
        assert_eq!(found.unwrap(), expected);
        for cut in [1, 2, 4, 5, 9, 13, 20] {
            assert!(Fields(&message[..cut]).any(|field| field.is_none()), "cut at {cut}");
        }
    }

    #[test]
    fn a_number_comes_back_and_one_of_more_than_64_bits_is_none() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = vec![0x08];
            put_varint(number, &mut bytes);
            assert_eq!(Fields(&bytes).next(), Some(Some((1, Value::Number(number)))));
        }
        for last in [2, 0x7f, 0x80] {
            let long = [&[0x08][..], &[0xff; 9], &[last]].concat();
            assert_eq!(Fields(&long).next(), Some(None), "{last}");
        }
        // A length that no memory has.
        assert_eq!(Fields(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").next(), Some(None));
    }
}
