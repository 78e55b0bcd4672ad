//! Encryption of a snapshot before it leaves the host, for places that don't encrypt.
//!
//! Each snapshot has a random key of its own. With it the data is encrypted by AES-256-GCM in frames of 1 MiB, so that it can be written and read
//! as a stream of flat memory. A frame's nonce is its number and whether it is the last, as in the STREAM construction (Hoang, Reyhanitabar,
//! Rogaway, Vizár: "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015): frames that are missing, doubled, in
//! another order, or those of another snapshot are not accepted. No nonce occurs twice under one key, because a key is used for one
//! snapshot.
//!
//! That key is encrypted in turn with the operator's key, bound to the snapshot's name, and is stored in the manifest. The
//! operator's key has 32 random bytes, so nothing has to be derived from it.

use std::cell::RefCell;
use std::fmt;
use std::io;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::core::snapshot::manifest::Encryption;
use crate::core::snapshot::name::Name;
use crate::etcd::backend::ReadAt;
use crate::util::words::hex;

/// How the manifest names it.
pub const ALGORITHM: &str = "AES-256-GCM";
/// Bytes of a frame before its encryption; only the last may have fewer.
pub const FRAME_BYTES: usize = 1 << 20;
/// GCM's tag, behind each frame.
pub const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
/// Enough to tell an operator's keys apart.
const KEY_ID_BYTES: usize = 8;
/// What the snapshot's key is bound to, before the snapshot's name.
const WRAPS: &str = "etcd-muster snapshot key 1: ";

/// Why something could not be encrypted or decrypted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The file with the operator's key.
    #[error("it has {0} bytes: a key is 32 random bytes, bare or in base64 (openssl rand -base64 32)")]
    NotAKey(usize),
    /// Encrypted in a way that this release doesn't know.
    #[error("it is encrypted by {0:?}, which this release does not know")]
    Unknown(String),
    #[error("it is encrypted with the key {wanted}, and this one is {given}")]
    OtherKey { wanted: String, given: String },
    /// The right key by its id, and the manifest's is not this snapshot's.
    #[error("its manifest's key is damaged, or is another snapshot's")]
    KeyDamaged,
    /// A frame that is not this snapshot's at that place.
    #[error("frame {0} is damaged, or is not in its place")]
    Frame(u64),
    #[error("it is cut, or is longer than it was")]
    Length,
    /// aws-lc-rs; its source of random numbers.
    #[error("the cryptographic library refused")]
    Library,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// The operator's key.
#[derive(Clone)]
pub struct OperatorKey([u8; KEY_BYTES]);

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OperatorKey").field(&self.id()).finish()
    }
}

impl OperatorKey {
    /// A file's contents, or a parameter's: 32 bytes, bare or in base64; then blanks around it don't count.
    ///
    /// # Errors
    /// Neither.
    pub fn parse(contents: &[u8]) -> Result<Self, Error> {
        if let Ok(bare) = contents.try_into() {
            return Ok(Self(bare));
        }
        let decoded = STANDARD.decode(contents.trim_ascii());
        let key = decoded.ok().and_then(|bytes| bytes.try_into().ok());
        key.map(Self).ok_or(Error::NotAKey(contents.len()))
    }

    /// The key itself.
    pub const fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Which key it is, in hex: the first bytes of its SHA-256. From them no key follows.
    pub fn id(&self) -> String {
        hex(&digest(&SHA256, &self.0).as_ref()[..KEY_ID_BYTES])
    }

    fn cipher(&self) -> Result<LessSafeKey, Error> {
        cipher(&self.0)
    }
}

fn cipher(key: &[u8; KEY_BYTES]) -> Result<LessSafeKey, Error> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| Error::Library)
}

/// One snapshot's key.
pub struct DataKey {
    bytes: [u8; KEY_BYTES],
    /// With which the key itself is encrypted.
    nonce: [u8; NONCE_LEN],
    cipher: LessSafeKey,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").finish_non_exhaustive()
    }
}

impl DataKey {
    /// A new one. It is for one snapshot only.
    ///
    /// # Errors
    /// There are no random numbers to be had.
    pub fn random() -> Result<Self, Error> {
        let (mut bytes, mut nonce) = ([0; KEY_BYTES], [0; NONCE_LEN]);
        let filled = aws_lc_rs::rand::fill(&mut bytes).and_then(|()| aws_lc_rs::rand::fill(&mut nonce));
        filled.map_err(|_| Error::Library)?;
        Self::of(bytes, nonce)
    }

    fn of(bytes: [u8; KEY_BYTES], nonce: [u8; NONCE_LEN]) -> Result<Self, Error> {
        Ok(Self { bytes, nonce, cipher: cipher(&bytes)? })
    }

    /// For the manifest of the snapshot of that name: the same, whenever it is asked.
    ///
    /// # Errors
    /// The library refuses.
    pub fn wrapped(&self, operator: &OperatorKey, name: &Name) -> Result<Encryption, Error> {
        let mut key = self.bytes.to_vec();
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let sealed = operator.cipher()?.seal_in_place_append_tag(nonce, bound_to(name), &mut key);
        sealed.map_err(|_| Error::Library)?;
        Ok(Encryption {
            algorithm: ALGORITHM.to_owned(),
            key_id: operator.id(),
            frame: FRAME_BYTES as u64,
            data_key: STANDARD.encode([&self.nonce[..], &key].concat()),
        })
    }

    /// The key of the snapshot of that name.
    ///
    /// # Errors
    /// It is another operator's key, or another snapshot's manifest.
    pub fn unwrapped(encryption: &Encryption, operator: &OperatorKey, name: &Name) -> Result<Self, Error> {
        if encryption.algorithm != ALGORITHM || encryption.frame != FRAME_BYTES as u64 {
            return Err(Error::Unknown(format!("{} in frames of {} bytes", encryption.algorithm, encryption.frame)));
        }
        if encryption.key_id != operator.id() {
            return Err(Error::OtherKey { wanted: encryption.key_id.clone(), given: operator.id() });
        }
        let mut stored = STANDARD.decode(&encryption.data_key).map_err(|_| Error::KeyDamaged)?;
        let (nonce, key) = stored.split_first_chunk_mut::<NONCE_LEN>().ok_or(Error::KeyDamaged)?;
        let nonce = *nonce;
        let opened = operator.cipher()?.open_in_place(Nonce::assume_unique_for_key(nonce), bound_to(name), key);
        let opened = opened.map_err(|_| Error::KeyDamaged)?;
        Self::of((&*opened).try_into().map_err(|_| Error::KeyDamaged)?, nonce)
    }

    /// Encrypts that frame in its place; its tag is appended.
    ///
    /// # Errors
    /// The library refuses.
    pub fn seal(&self, frame: u64, is_last: bool, data: &mut Vec<u8>) -> Result<(), Error> {
        let sealed = self.cipher.seal_in_place_append_tag(nonce(frame, is_last), Aad::empty(), data);
        sealed.map_err(|_| Error::Library)
    }

    /// Decrypts that frame in its place.
    ///
    /// # Errors
    /// It is not this frame of this snapshot.
    pub fn open<'a>(&self, frame: u64, is_last: bool, data: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let opened = self.cipher.open_in_place(nonce(frame, is_last), Aad::empty(), data);
        opened.map_err(|_| Error::Frame(frame))
    }
}

fn bound_to(name: &Name) -> Aad<String> {
    Aad::from(format!("{WRAPS}{name}"))
}

fn nonce(frame: u64, is_last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&frame.to_be_bytes());
    nonce[NONCE_LEN - 1] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}

/// How long the data is that has this length when it is encrypted; `None`: no data has.
pub fn plain_length(sealed: u64) -> Option<u64> {
    let (frame, tag) = (FRAME_BYTES as u64, TAG_BYTES as u64);
    let frames = sealed.div_ceil(frame + tag);
    let rest = sealed.checked_sub(frames.checked_sub(1)? * (frame + tag))?;
    // Only a snapshot of no bytes has a frame of none.
    (rest > tag || (rest == tag && frames == 1)).then(|| sealed - frames * tag)
}

/// How long it is when it is encrypted.
pub fn sealed_length(plain: u64) -> u64 {
    plain + plain.div_ceil(FRAME_BYTES as u64).max(1) * TAG_BYTES as u64
}

/// An encrypted snapshot that is read as if it were not.
pub struct Opened<'a, R> {
    file: R,
    key: &'a DataKey,
    plain: u64,
    /// The frame that was read last, decrypted: what is read lies close together.
    last: RefCell<Option<(u64, Vec<u8>)>>,
}

impl<R> fmt::Debug for Opened<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl<'a, R: ReadAt> Opened<'a, R> {
    /// A file that has this length, encrypted.
    ///
    /// # Errors
    /// No snapshot has this length.
    pub fn new(file: R, sealed: u64, key: &'a DataKey) -> Result<Self, Error> {
        let plain = plain_length(sealed).ok_or(Error::Length)?;
        Ok(Self { file, key, plain, last: RefCell::default() })
    }

    /// Its length, decrypted.
    pub fn length(&self) -> u64 {
        self.plain
    }

    fn frame(&self, number: u64) -> io::Result<Vec<u8>> {
        let size = FRAME_BYTES as u64;
        let length = (self.plain - number * size).min(size);
        let mut data = vec![0; length as usize + TAG_BYTES];
        self.file.read_exact_at(&mut data, number * (size + TAG_BYTES as u64))?;
        let is_last = (number + 1) * size >= self.plain;
        self.key.open(number, is_last, &mut data)?;
        data.truncate(length as usize);
        Ok(data)
    }
}

impl<R: ReadAt> ReadAt for Opened<'_, R> {
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            if offset >= self.plain {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (number, within) = (offset / FRAME_BYTES as u64, (offset % FRAME_BYTES as u64) as usize);
            let mut last = self.last.borrow_mut();
            let data = match &mut *last {
                Some((held, data)) if *held == number => data,
                other => {
                    *other = None;
                    &mut other.insert((number, self.frame(number)?)).1
                }
            };
            let length = buffer.len().min(data.len() - within);
            let (filled, rest) = buffer.split_at_mut(length);
            filled.copy_from_slice(&data[within..within + length]);
            (buffer, offset) = (rest, offset + length as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::ClusterId;

    struct Memory(Vec<u8>);

    impl ReadAt for Memory {
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            let found = self.0.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
            buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    fn name() -> Name {
        Name::new(ClusterId(0xcafe), 17, 23, "i-1")
    }

    fn key() -> DataKey {
        DataKey::of([7; KEY_BYTES], [9; NONCE_LEN]).unwrap()
    }

    /// Every byte of it differs from those a frame before and after.
    fn plain(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / FRAME_BYTES * 31 + at % 251) as u8).collect()
    }

    fn sealed(key: &DataKey, plain: &[u8]) -> Vec<u8> {
        let mut frames: Vec<&[u8]> = plain.chunks(FRAME_BYTES).collect();
        if frames.is_empty() {
            frames.push(&[]);
        }
        let mut all = Vec::new();
        for (number, frame) in frames.iter().enumerate() {
            let mut data = frame.to_vec();
            key.seal(number as u64, number + 1 == frames.len(), &mut data).unwrap();
            all.extend(data);
        }
        all
    }

    fn opened(key: &DataKey, sealed: Vec<u8>) -> io::Result<Vec<u8>> {
        let length = sealed.len() as u64;
        let opened = Opened::new(Memory(sealed), length, key)?;
        let mut plain = vec![0; opened.length() as usize];
        opened.read_exact_at(&mut plain, 0)?;
        // Also the last frame of no bytes has a tag.
        if plain.is_empty() {
            opened.frame(0)?;
        }
        Ok(plain)
    }

    #[test]
    fn what_is_encrypted_comes_back_and_twice_the_same() {
        for length in [0, 1, 4128, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES + 4128] {
            let (plain, key) = (plain(length), key());
            let once = sealed(&key, &plain);
            assert_eq!(once, sealed(&key, &plain), "two passes give the same bytes");
            assert_eq!(once.len() as u64, sealed_length(length as u64));
            assert_eq!(plain_length(once.len() as u64), Some(length as u64));
            assert_eq!(opened(&key, once).unwrap(), plain, "{length}");
        }
    }

    #[test]
    fn reads_cross_frames_and_end_with_the_data() {
        let (plain, key) = (plain(2 * FRAME_BYTES + 100), key());
        let sealed = sealed(&key, &plain);
        let length = sealed.len() as u64;
        let opened = Opened::new(Memory(sealed), length, &key).unwrap();
        let mut buffer = [0; 64];
        for at in [0, FRAME_BYTES - 32, FRAME_BYTES, 2 * FRAME_BYTES - 1, plain.len() - 64] {
            opened.read_exact_at(&mut buffer, at as u64).unwrap();
            assert_eq!(buffer, plain[at..at + 64], "{at}");
        }
        for at in [plain.len() - 63, plain.len(), usize::MAX / 2] {
            assert!(opened.read_exact_at(&mut buffer, at as u64).is_err(), "{at}");
        }
    }

    #[test]
    fn what_is_cut_reordered_doubled_swapped_or_changed_is_refused() {
        let key = key();
        let whole = sealed(&key, &plain(3 * FRAME_BYTES));
        let frame = FRAME_BYTES + TAG_BYTES;
        let frames = |order: &[usize]| {
            order.iter().flat_map(|&n| whole[n * frame..(n + 1) * frame].to_vec()).collect::<Vec<_>>()
        };
        assert!(opened(&key, frames(&[0, 1, 2])).is_ok());
        for order in
            [&[0, 1][..], &[0, 2], &[1, 2], &[0], &[0, 2, 1], &[1, 0, 2], &[0, 1, 2, 2], &[0, 1, 1], &[0, 0, 2], &[]]
        {
            assert!(opened(&key, frames(order)).is_err(), "frames {order:?}");
        }
        let other = sealed(&DataKey::of([8; KEY_BYTES], [9; NONCE_LEN]).unwrap(), &plain(3 * FRAME_BYTES));
        let swapped = [&whole[..frame], &other[frame..2 * frame], &whole[2 * frame..]].concat();
        assert!(opened(&key, swapped).is_err(), "another snapshot's frame at the same place");
        for cut in [1, TAG_BYTES, FRAME_BYTES, FRAME_BYTES + 1, frame - 1] {
            assert!(opened(&key, whole[..whole.len() - cut].to_vec()).is_err(), "cut by {cut}");
        }
        for longer in [1, TAG_BYTES, TAG_BYTES + 1] {
            assert!(opened(&key, [&whole[..], &vec![0; longer]].concat()).is_err(), "longer by {longer}");
        }
        // A flipped bit anywhere: in data, in tags, in the first and the last frame.
        for at in (0..whole.len()).step_by(whole.len() / 23).chain([frame - 1, whole.len() - 1]) {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(opened(&key, changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_key_is_for_one_operator_and_one_snapshot() {
        let (operator, key) = (OperatorKey([1; KEY_BYTES]), DataKey::random().unwrap());
        let wrapped = key.wrapped(&operator, &name()).unwrap();
        assert_eq!(wrapped, key.wrapped(&operator, &name()).unwrap());
        let found = DataKey::unwrapped(&wrapped, &operator, &name()).unwrap();
        assert_eq!(found.bytes, key.bytes);
        let other = Name::new(ClusterId(0xcafe), 18, 23, "i-1");
        assert_eq!(DataKey::unwrapped(&wrapped, &operator, &other).unwrap_err(), Error::KeyDamaged);
        let stranger = OperatorKey([2; KEY_BYTES]);
        assert!(matches!(DataKey::unwrapped(&wrapped, &stranger, &name()), Err(Error::OtherKey { .. })));
        let forged = Encryption { key_id: stranger.id(), ..wrapped.clone() };
        assert_eq!(DataKey::unwrapped(&forged, &stranger, &name()).unwrap_err(), Error::KeyDamaged);
        for (algorithm, frame) in [("AES-128-GCM", 1 << 20), (ALGORITHM, 1 << 16)] {
            let newer = Encryption { algorithm: algorithm.to_owned(), frame, ..wrapped.clone() };
            assert!(matches!(DataKey::unwrapped(&newer, &operator, &name()), Err(Error::Unknown(_))));
        }
        for damaged in ["", "!", "AAAA", &wrapped.data_key[4..]] {
            let damaged = Encryption { data_key: damaged.to_owned(), ..wrapped.clone() };
            assert_eq!(DataKey::unwrapped(&damaged, &operator, &name()).unwrap_err(), Error::KeyDamaged);
        }
    }

    #[test]
    fn an_operators_key_is_32_bytes_bare_or_in_base64() {
        let text = STANDARD.encode([1; KEY_BYTES]);
        for contents in [&[1; KEY_BYTES][..], text.as_bytes(), format!(" {text}\r\n").as_bytes()] {
            assert_eq!(OperatorKey::parse(contents).unwrap().0, [1; KEY_BYTES]);
        }
        for contents in [&b""[..], b"a password", &[1; 31], &[1; 33], STANDARD.encode([1; 31]).as_bytes()] {
            assert_eq!(OperatorKey::parse(contents).unwrap_err(), Error::NotAKey(contents.len()));
        }
        // sha256sum of 32 bytes of 01 begins so.
        assert_eq!(OperatorKey([1; KEY_BYTES]).id(), "72cd6e8422c407fb");
        assert_eq!(format!("{:?}", OperatorKey([1; KEY_BYTES])), "OperatorKey(\"72cd6e8422c407fb\")");
    }

    /// As another implementation (Python's cryptography 48, AESGCM) makes them from the description above.
    #[test]
    fn a_frame_and_a_wrapped_key_are_as_another_implementation_makes_them() {
        let mut data = b"etcd".to_vec();
        key().seal(5, true, &mut data).unwrap();
        assert_eq!(hex(&data), "da3b5128cdd6e2dd9739de21ce42abe612d3175c");
        let wrapped = key().wrapped(&OperatorKey([1; KEY_BYTES]), &name()).unwrap();
        assert_eq!(
            wrapped.data_key,
            "CQkJCQkJCQkJCQkJwwggyck3AcZ4U01IqdqCEJ7Aef0zmDPhMF83TulQ+PoWSryXPDpkqcynNjzlM/DU"
        );
    }
}
