//! Sets of field names, and the lines of a field.

use http::{HeaderName, HeaderValue};

/// A small set of field names. Marks exclude most other names without a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldNames {
    names: Vec<HeaderName>,
    /// The union of the marks.
    marks: u64,
}

impl FieldNames {
    pub(crate) fn push(&mut self, name: HeaderName) {
        self.marks |= mark(name.as_str());
        self.names.push(name);
    }

    pub(crate) fn as_slice(&self) -> &[HeaderName] {
        &self.names
    }

    /// Returns the union of the [marks](mark).
    #[inline]
    pub(crate) fn marks(&self) -> u64 {
        self.marks
    }

    #[inline]
    pub(crate) fn contains(&self, name: &HeaderName) -> bool {
        self.marks & mark(name.as_str()) != 0 && self.names.contains(name)
    }
}

impl FromIterator<HeaderName> for FieldNames {
    fn from_iter<I: IntoIterator<Item = HeaderName>>(names: I) -> Self {
        let mut all = Self::default();
        names.into_iter().for_each(|name| all.push(name));
        all
    }
}

/// Returns the mark of a name: one bit of 64, derived from its length and its first byte.
///
/// Common request fields such as `user-agent` and `accept-encoding` have other marks than the
/// fields that a cache looks for.
#[inline]
pub(crate) const fn mark(name: &str) -> u64 {
    let first = match name.as_bytes() {
        [] => 0,
        [first, ..] => *first as usize,
    };
    1 << ((name.len() + 5 * first) % 64)
}

/// The lines of a field that must occur once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldLines<'a> {
    #[default]
    None,
    One(&'a HeaderValue),
    Several,
}

impl<'a> FieldLines<'a> {
    /// Returns the lines with one more.
    #[inline]
    pub(crate) fn and(self, line: &'a HeaderValue) -> Self {
        match self {
            Self::None => Self::One(line),
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, AUTHORIZATION, COOKIE};

    use super::*;

    #[test]
    fn finds_a_name_and_no_other_one_of_its_mark() {
        let names: FieldNames = [AUTHORIZATION, COOKIE].into_iter().collect();
        assert!(names.contains(&AUTHORIZATION) && names.contains(&COOKIE));
        let other = HeaderName::from_static("cf-ray");
        assert_eq!(mark(other.as_str()), mark(COOKIE.as_str()));
        assert!(!names.contains(&other) && !names.contains(&ACCEPT));
        assert!(!FieldNames::default().contains(&COOKIE));
    }

    #[test]
    fn a_name_of_any_length_is_found() {
        for len in [1, 63, 64, 65, 200] {
            let name = HeaderName::try_from("x".repeat(len)).unwrap();
            let names: FieldNames = [name.clone()].into_iter().collect();
            assert!(names.contains(&name), "{len}");
        }
    }
}
