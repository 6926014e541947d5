//! Encryption of bytes with one of several keys: XChaCha20-Poly1305 with random nonces.

use std::fmt;

use bytes::Bytes;
use chacha20poly1305::{
    Tag, XChaCha20Poly1305, XNonce,
    aead::{AeadInOut, KeyInit},
};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::core::{
    error::{ConfigError, StoreError, StoreErrorKind},
    store_api::binary::{BinaryReader, BinaryWriter},
};

/// The version of the encrypted format: version, key id, nonce, ciphertext, authentication tag.
const FORM: u8 = 1;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const NONCE_AT: usize = 3;
const SEALED_AT: usize = NONCE_AT + NONCE_BYTES;

/// A key that encrypts cached responses: a secret and an id.
///
/// ```
/// use portcullis::store::EncryptionKey;
///
/// let key = EncryptionKey::new(1, b"thirty-two bytes or more, from a secret manager")?;
/// assert_eq!(key.id(), 1);
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct EncryptionKey {
    id: u16,
    cipher: XChaCha20Poly1305,
}

impl EncryptionKey {
    /// Creates a key from an id and a secret. The id is stored in front of each ciphertext.
    ///
    /// # Errors
    ///
    /// Returns an error if the secret has fewer than 32 bytes, or if all of its bytes are equal.
    pub fn new(id: u16, secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let secret = secret.as_ref();
        let refused = |problem: &str| {
            let value = format!("{} bytes long", secret.len());
            ConfigError::new("encryption key", value, problem)
                .fix("generate one with `openssl rand -hex 32`, and store it apart from the cache")
        };
        if secret.len() < 32 {
            return Err(refused("a secret of fewer than 32 bytes can be guessed"));
        }
        if secret.iter().all(|byte| *byte == secret[0]) {
            return Err(refused("a secret of equal bytes can be guessed"));
        }
        // A derived key, so that the same secret can serve another purpose.
        let mac: Result<Hmac<Sha256>, _> = hmac::KeyInit::new_from_slice(secret);
        let mut mac = mac.expect("HMAC takes a key of any length");
        mac.update(b"portcullis-v1 encrypted answers");
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(mac.finalize().into_bytes().into());
        Ok(Self {
            id,
            cipher: XChaCha20Poly1305::new((&*key).into()),
        })
    }

    /// Returns the id of the key.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Encrypts bytes and binds them to their context.
    pub(super) fn seal(&self, place: &SealContext<'_>, bytes: &[u8]) -> Result<Bytes, StoreError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| StoreErrorKind::Unavailable)?;
        let mut out = BinaryWriter::with_capacity(SEALED_AT + bytes.len() + TAG_BYTES);
        out.u8(FORM);
        out.u16(self.id);
        out.raw(&nonce);
        out.raw(bytes);
        let mut out = out.into_bytes();
        let sealing = (&mut out[SEALED_AT..]).into();
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce.into(), &place.data(self.id), sealing)
            .map_err(|_| StoreErrorKind::Full)?;
        out.extend_from_slice(&tag);
        Ok(out.into())
    }

    fn open(&self, place: &SealContext<'_>, sealed: &Sealed<'_>) -> Option<Bytes> {
        let mut bytes = sealed.bytes.to_vec();
        let opening = bytes.as_mut_slice().into();
        let data = place.data(self.id);
        let opened = self
            .cipher
            .decrypt_inout_detached(&sealed.nonce, &data, opening, &sealed.tag);
        opened.ok().map(|()| bytes.into())
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptionKey")
    }
}

/// Decrypts bytes with the key that encrypted them.
pub(super) fn open(keys: &[EncryptionKey], place: &SealContext<'_>, bytes: &[u8]) -> Option<Bytes> {
    let sealed = Sealed::read(bytes)?;
    let key = keys.iter().find(|key| key.id == sealed.key_id)?;
    key.open(place, &sealed)
}

/// Returns the id in the header of encrypted bytes.
pub(super) fn key_id(sealed: &[u8]) -> Option<u16> {
    Sealed::read(sealed).map(|sealed| sealed.key_id)
}

/// Returns the nonce, which identifies a ciphertext.
pub(super) fn nonce(sealed: &[u8]) -> Option<&[u8; NONCE_BYTES]> {
    sealed.get(NONCE_AT..)?.first_chunk()
}

/// The context to which encrypted bytes are bound. Decryption in another context fails.
pub(super) struct SealContext<'a> {
    /// The kind of the bytes and the entry to which they belong, as fields of fixed length.
    pub(super) parts: [&'a [u8]; 5],
}

impl SealContext<'_> {
    fn data(&self, key_id: u16) -> Vec<u8> {
        let mut data = BinaryWriter::default();
        data.raw(b"portcullis-v1 encrypted");
        data.u8(FORM);
        data.u16(key_id);
        for part in self.parts {
            data.u64(part.len() as u64);
            data.raw(part);
        }
        data.into_bytes()
    }
}

struct Sealed<'a> {
    key_id: u16,
    nonce: XNonce,
    bytes: &'a [u8],
    tag: Tag,
}

impl<'a> Sealed<'a> {
    fn read(sealed: &'a [u8]) -> Option<Self> {
        let mut reader = BinaryReader::new(sealed);
        if reader.u8()? != FORM {
            return None;
        }
        let (key_id, nonce) = (reader.u16()?, reader.array::<NONCE_BYTES>()?);
        let (bytes, tag) = reader.into_rest().split_last_chunk::<TAG_BYTES>()?;
        Some(Self {
            key_id,
            nonce: nonce.into(),
            bytes,
            tag: (*tag).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn key(id: u16) -> EncryptionKey {
        let mut secret = [7; 32];
        secret[..2].copy_from_slice(&id.to_le_bytes());
        EncryptionKey::new(id, secret).unwrap()
    }

    fn place(part: &[u8]) -> SealContext<'_> {
        SealContext {
            parts: [part, b"", b"", b"", b""],
        }
    }

    #[test]
    fn two_sealings_of_the_same_are_not_the_same() {
        let seal = || key(1).seal(&place(b"a"), b"text").unwrap();
        let (one, two) = (seal(), seal());
        assert_ne!(one, two);
        assert_ne!(nonce(&one), nonce(&two));
    }

    const DATA: &[u8] = b"\
        portcullis-v1 encrypted\x01\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00a\x02\x00\x00\x00\x00\
        \x00\x00\x00bc\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00d\x01\x00\
        \x00\x00\x00\x00\x00\x00e";

    const SEALED: &[u8] = b"\
        \x01\x02\x01~\x04\xa8pR\xea5\xc6%]d\xb1\xea\xe9\xb2\xb8W\xbdO8)>\xe9\xe4\xd2\xf5i\xd06Y\
        \xa6\\e\x01\xf5\x0fG\xe8d\xf0lr\x18Z";

    /// Processes of other versions sealed these bytes, and open them.
    #[test]
    fn sealed_form_never_changes() {
        let parts: [&[u8]; 5] = [b"a", b"bc", b"", b"d", b"e"];
        let place = SealContext { parts };
        assert_eq!(place.data(0x0102), DATA);
        let sealed = key(0x0102).seal(&place, b"text").unwrap();
        assert_eq!(&sealed[..3], b"\x01\x02\x01");
        assert_eq!(sealed.len(), 3 + 24 + 4 + 16);
        assert_eq!(open(&[key(0x0102)], &place, SEALED).unwrap(), "text");
    }

    #[test]
    fn one_changed_bit_anywhere_is_found() {
        let sealed = key(1).seal(&place(b"a"), b"text").unwrap();
        assert_eq!(open(&[key(1)], &place(b"a"), &sealed).unwrap(), "text");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let keys = [key(0), key(1), key(2), key(3)];
            assert!(open(&keys, &place(b"a"), &changed).is_none(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(open(&[key(1)], &place(b"a"), &sealed[..len]).is_none());
        }
    }

    #[test]
    fn rejects_weak_encryption_key_without_disclosing_it() {
        let error = EncryptionKey::new(1, b"hunter2").unwrap_err();
        assert!(error.to_string().contains("7 bytes long"));
        assert!(!error.to_string().contains("hunter2"));
        assert!(EncryptionKey::new(1, [b'x'; 64]).is_err());
        assert_eq!(format!("{:?}", key(1)), "EncryptionKey");
    }

    proptest! {
        #[test]
        fn sealed_bytes_open_only_with_the_same_associated_data(
            bytes in vec(any::<u8>(), 0..100),
            here in vec(any::<u8>(), 0..4),
            there in vec(any::<u8>(), 0..4),
        ) {
            let sealed = key(1).seal(&place(&here), &bytes).unwrap();
            let opened = open(&[key(2), key(1)], &place(&there), &sealed);
            prop_assert_eq!(opened.is_some(), here == there);
            if let Some(opened) = opened {
                prop_assert_eq!(opened, bytes);
            }
            prop_assert!(open(&[key(2)], &place(&here), &sealed).is_none());
        }

        #[test]
        fn no_bytes_make_opening_panic(bytes in vec(any::<u8>(), 0..80)) {
            prop_assert!(open(&[key(1)], &place(b""), &bytes).is_none());
        }
    }
}
