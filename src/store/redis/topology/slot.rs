//! The slots of keys in a Cluster.

/// The number of slots in a Cluster.
const SLOTS: u16 = 16_384;

/// Returns the slot of a key, or of the key's hash tag if it has one.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    crc16(tag_of(key)) % SLOTS
}

fn tag_of(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return key;
    };
    let rest = &key[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        Some(close @ 1..) => &rest[..close],
        Some(0) | None => key,
    }
}

/// Returns the CRC-16/XMODEM checksum: polynomial 0x1021, not reflected, initial value 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

const TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut crc, mut bit) = ((at as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 > 0 {
                (crc << 1) ^ 0x1021
            } else {
                crc << 1
            };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_the_slot_that_servers_say() {
        // From the Cluster specification, and `CLUSTER KEYSLOT`.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b""), 0);
    }

    #[test]
    fn slot_is_that_of_the_first_hash_tag() {
        assert_eq!(slot_of(b"a:{tag}:b"), slot_of(b"tag"));
        assert_eq!(slot_of(b"a{tag}{other}"), slot_of(b"tag"));
        assert_ne!(slot_of(b"a{}b"), slot_of(b""));
        assert_ne!(slot_of(b"a{b"), slot_of(b"b"));
    }
}
