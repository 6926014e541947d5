//! The id of a policy's count.

/// The FNV-1a hash of the properties that identify a count. The properties come from the
/// configuration, so clients cannot cause collisions.
pub(super) struct PolicyId(pub(super) u64);

impl PolicyId {
    pub(super) fn of(name: &str, letter: char) -> Self {
        // All letters are ASCII.
        Self(0xcbf2_9ce4_8422_2325).text(name).bytes([letter as u8])
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.bytes(text.bytes()).bytes([0])
    }

    pub(super) fn number(self, number: u64) -> Self {
        self.bytes(number.to_le_bytes())
    }

    pub(super) fn bytes(self, bytes: impl IntoIterator<Item = u8>) -> Self {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.into_iter().fold(self.0, mix))
    }
}
