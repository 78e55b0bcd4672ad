//! For tests: frames, as they are sent.

/// Appends one.
pub fn put(kind: u8, flags: u8, stream: u32, payload: &[u8], bytes: &mut Vec<u8>) {
    super::frame(kind, flags, stream, payload, bytes);
}
