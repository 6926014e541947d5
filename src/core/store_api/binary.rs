//! The binary encoding of stored values as a sequence of fields.
//!
//! Numbers are little-endian. The first byte of a stored value is the version of its encoding. A
//! variable-length field is preceded by its length as a `u32`.

use std::ops::Deref;

use bytes::{Buf, Bytes};

/// Appends fields to a buffer.
#[derive(Default)]
pub(crate) struct BinaryWriter(Vec<u8>);

impl BinaryWriter {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.0.reserve(bytes);
    }

    pub(crate) fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    pub(crate) fn u16(&mut self, number: u16) {
        self.raw(&number.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.raw(&number.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.raw(&number.to_le_bytes());
    }

    pub(crate) fn f64(&mut self, number: f64) {
        self.raw(&number.to_le_bytes());
    }

    /// Writes a number in big-endian order, so that encoded numbers sort in numeric order.
    pub(crate) fn sortable_u64(&mut self, number: u64) {
        self.raw(&number.to_be_bytes());
    }

    /// Writes bytes whose length is known to the reader.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Writes a length or a count. Lengths above `u32::MAX` are written as `u32::MAX`, which
    /// [`BinaryReader::len`] never accepts.
    pub(crate) fn len(&mut self, len: usize) {
        self.u32(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Writes the number of bytes, followed by the bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.len(bytes.len());
        self.raw(bytes);
    }

    /// Writes 1 followed by the value, or 0 for `None`.
    pub(crate) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// Writes the number of values, followed by the values.
    pub(crate) fn list<T>(
        &mut self,
        values: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.len(values.len());
        for value in values {
            write(self, value);
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads fields from the front of untrusted bytes.
///
/// Each method returns `None` if the bytes do not encode the field. The position is then
/// unspecified, and the entire value must be treated as corrupt.
pub(crate) struct BinaryReader<B>(B);

/// The input of a [`BinaryReader`]. It is split without copying.
pub(crate) trait ByteSource: Buf + Deref<Target = [u8]> + Sized {
    /// Removes `len` bytes from the front and returns them, or returns `None` if there are fewer
    /// bytes.
    fn split_front(&mut self, len: usize) -> Option<Self>;
}

impl ByteSource for Bytes {
    fn split_front(&mut self, len: usize) -> Option<Self> {
        (len <= self.len()).then(|| self.split_to(len))
    }
}

impl ByteSource for &[u8] {
    fn split_front(&mut self, len: usize) -> Option<Self> {
        let (front, rest) = self.split_at_checked(len)?;
        *self = rest;
        Some(front)
    }
}

impl<B: ByteSource> BinaryReader<B> {
    pub(crate) fn new(bytes: B) -> Self {
        Self(bytes)
    }

    /// Returns the unread bytes.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_rest(self) -> B {
        self.0
    }

    /// Returns `value` if all bytes have been read.
    pub(crate) fn finish<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.0.first_chunk()?;
        self.0.advance(N);
        Some(array)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn f64(&mut self) -> Option<f64> {
        self.array().map(f64::from_le_bytes)
    }

    /// Reads a length or a count of at most `max`, which limits the memory that is reserved.
    pub(crate) fn len(&mut self, max: usize) -> Option<usize> {
        let len = usize::try_from(self.u32()?).ok()?;
        (len <= max).then_some(len)
    }

    /// Reads a length of at most `max`, followed by that number of bytes.
    pub(crate) fn bytes(&mut self, max: usize) -> Option<B> {
        let len = self.len(max)?;
        self.0.split_front(len)
    }

    /// Reads the field that [`BinaryWriter::optional`] writes.
    pub(crate) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    /// Reads a count of at most `max`, followed by that number of values. The collection grows as
    /// values are read, so an incorrect count does not allocate memory.
    pub(crate) fn list<T, C: FromIterator<T>>(
        &mut self,
        max: usize,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<C> {
        (0..self.len(max)?).map(|_| read(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn numbers_are_little_endian_unless_they_are_to_sort() {
        let mut writer = BinaryWriter::default();
        writer.u8(1);
        writer.u16(0x0203);
        writer.u32(0x0405_0607);
        writer.u64(0x0809_0a0b_0c0d_0e0f);
        writer.f64(1.0);
        writer.sortable_u64(0x1011_1213_1415_1617);
        let expected = b"\x01\x03\x02\x07\x06\x05\x04\x0f\x0e\x0d\x0c\x0b\x0a\x09\x08\
            \0\0\0\0\0\0\xf0\x3f\x10\x11\x12\x13\x14\x15\x16\x17";
        assert_eq!(writer.into_bytes(), expected);
    }

    #[test]
    fn variable_fields_follow_their_length() {
        let mut writer = BinaryWriter::default();
        writer.bytes(b"ab");
        writer.optional(None::<u8>, BinaryWriter::u8);
        writer.optional(Some(7), BinaryWriter::u8);
        writer.list([8, 9].into_iter(), BinaryWriter::u8);
        assert_eq!(
            writer.into_bytes(),
            b"\x02\0\0\0ab\x00\x01\x07\x02\0\0\0\x08\x09"
        );
    }

    #[test]
    fn lengths_beyond_the_maximum_or_the_bytes_are_refused() {
        let bytes: &[u8] = b"\x03\0\0\0abc";
        assert_eq!(BinaryReader::new(bytes).bytes(3), Some(&b"abc"[..]));
        assert_eq!(BinaryReader::new(bytes).bytes(2), None);
        assert_eq!(BinaryReader::new(&bytes[..6]).bytes(3), None);
        let false_count = Bytes::from_static(b"\xff\xff\xff\xffab");
        let mut reader = BinaryReader::new(false_count);
        let list: Option<Vec<u8>> = reader.list(usize::MAX, BinaryReader::u8);
        assert_eq!(list, None);
        assert_eq!(reader.finish(()), Some(()));
    }

    #[test]
    fn bytes_that_are_left_are_no_finished_value() {
        let mut reader = BinaryReader::new(&b"\x01\x02"[..]);
        assert_eq!(reader.optional(BinaryReader::u8), Some(Some(2)));
        assert_eq!(reader.finish(()), Some(()));
        let mut reader = BinaryReader::new(&b"\x00\x02"[..]);
        assert_eq!(reader.optional(BinaryReader::u8), Some(None));
        assert_eq!(reader.finish(()), None);
        assert_eq!(
            BinaryReader::new(&b"\x02"[..]).optional(BinaryReader::u8),
            None
        );
    }

    proptest! {
        #[test]
        fn both_sources_read_what_was_written(
            number in any::<u64>(),
            list in vec(vec(any::<u8>(), 0..9), 0..9),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut writer = BinaryWriter::with_capacity(16);
            writer.u64(number);
            writer.list(list.iter(), |writer, bytes| writer.bytes(bytes));
            let written = writer.into_bytes();
            let mut slice = BinaryReader::new(&written[..]);
            let mut shared = BinaryReader::new(Bytes::from(written.clone()));
            prop_assert_eq!(slice.u64(), Some(number));
            prop_assert_eq!(shared.u64(), Some(number));
            let read: Option<Vec<&[u8]>> = slice.list(9, |reader| reader.bytes(9));
            prop_assert_eq!(read.unwrap(), list.iter().map(|own| &own[..]).collect::<Vec<_>>());
            let read: Option<Vec<Bytes>> = shared.list(9, |reader| reader.bytes(9));
            prop_assert_eq!(read.unwrap(), list);
            prop_assert!(slice.rest().is_empty() && shared.into_rest().is_empty());

            let mut short = BinaryReader::new(&written[..cut.index(written.len())]);
            let _ = short.u64();
            let read: Option<Vec<&[u8]>> = short.list(9, |reader| reader.bytes(9));
            prop_assert!(read.is_none());
        }
    }
}
