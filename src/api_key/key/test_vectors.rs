//! A known-answer test of keys: fixed randomness, the key that is printed, and the digest that is
//! stored.

use super::{
    checksum_tag::{KeyTags, TagSecret},
    digest::{Pepper, Peppers},
    format::{Fill, KeyFormat},
};

/// Multiples of 7. One of them, 252, is above the range that maps evenly to 62 symbols, and is left
/// out.
const ENTROPY: Fill = |bytes| {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (at * 7 % 256) as u8;
    }
    Ok(())
};

/// Computed by Python 3, which shares no code with this crate:
///
/// ```text
/// import hashlib, hmac, zlib
/// B = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
/// s = "".join(B[b % 62] for b in bytes(i * 7 % 256 for i in range(64)) if b < 248)
/// def spell(n):
///     t = ""
///     for _ in range(6): n, d = divmod(n, 62); t = B[d] + t
///     return t
/// pepper, tag = bytes(range(32)), bytes(range(32, 64))
/// keyed = lambda k: int.from_bytes(hmac.digest(tag, k, "sha256")[:4], "big")
/// for version, check in ("1", zlib.crc32), ("2", keyed):
///     key = f"acme_live_{version}{s[:15]}_{s[15:58]}"
///     key += spell(check(key.encode()))
///     print(key, hmac.digest(pepper, b"apikey-v1\0" + key.encode(), "sha256").hex())
/// ```
const CHECKSUM: [&str; 2] = [
    "acme_live_107ELSZgnu18FMTa_hov29GNUbipw3AHOVcjqx3AHOVcjqx4BIPWdkry5CJQ01b94h",
    "25db9be93469e7a16112200a39d9d8af76fca377c7a13fc696563608285d75b5",
];
const KEYED_TAG: [&str; 2] = [
    "acme_live_207ELSZgnu18FMTa_hov29GNUbipw3AHOVcjqx3AHOVcjqx4BIPWdkry5CJQ2npx2S",
    "890c3c1077a33215472bb43ec9a46d4473789f65fdf54e3ee5e69017416e967f",
];

/// Generates a key, and returns it and the digest that is stored in hexadecimal digits.
fn generated(tags: Option<KeyTags>) -> [String; 2] {
    let format = KeyFormat::new("acme", &["live".to_owned()], tags).unwrap();
    let (id, key) = format.generate("live", ENTROPY).unwrap();
    let key = key.expose_secret();
    assert_eq!(format.parse(key.as_bytes()).unwrap().id, id);
    let pepper = Pepper::new(1, (0..32).collect::<Vec<u8>>()).unwrap();
    let peppers = Peppers::new(Some(pepper), Vec::new(), false).unwrap();
    let digest = peppers.digest_new(key.as_bytes());
    let digits = digest.as_bytes().iter().map(|byte| format!("{byte:02x}"));
    [key.to_owned(), digits.collect()]
}

#[test]
fn key_with_checksum_and_its_stored_digest_are_known() {
    assert_eq!(generated(None), CHECKSUM);
}

#[test]
fn key_with_keyed_tag_and_its_stored_digest_are_known() {
    let tags = KeyTags {
        current: TagSecret::new((32..64).collect::<Vec<u8>>()).unwrap(),
        previous: Vec::new(),
        checksums_too: false,
    };
    assert_eq!(generated(Some(tags)), KEYED_TAG);
}
