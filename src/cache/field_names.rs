//! A few names of fields, among which that of each field of a request is looked for.

use http::HeaderName;

/// A few names of fields. Most others are told from them by their length alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldNames {
    names: Vec<HeaderName>,
    /// A bit for each length that one of them has, modulo 64.
    lengths: u64,
}

impl FieldNames {
    pub(super) fn push(&mut self, name: HeaderName) {
        self.lengths |= length_bit(name.as_str());
        self.names.push(name);
    }

    pub(super) fn as_slice(&self) -> &[HeaderName] {
        &self.names
    }

    /// Returns a bit for each length that one of them has, as [`length_bit`] gives it.
    #[inline]
    pub(super) fn lengths(&self) -> u64 {
        self.lengths
    }

    #[inline]
    pub(super) fn contains(&self, name: &HeaderName) -> bool {
        self.lengths & length_bit(name.as_str()) != 0 && self.names.contains(name)
    }
}

impl FromIterator<HeaderName> for FieldNames {
    fn from_iter<I: IntoIterator<Item = HeaderName>>(names: I) -> Self {
        let mut all = Self::default();
        names.into_iter().for_each(|name| all.push(name));
        all
    }
}

/// Returns a bit for the length of a name, modulo 64.
#[inline]
pub(super) const fn length_bit(name: &str) -> u64 {
    1 << (name.len() % 64)
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, AUTHORIZATION, COOKIE};

    use super::*;

    #[test]
    fn a_name_is_found_and_no_other_one_of_its_length() {
        let names: FieldNames = [AUTHORIZATION, COOKIE].into_iter().collect();
        assert!(names.contains(&AUTHORIZATION) && names.contains(&COOKIE));
        assert!(!names.contains(&ACCEPT), "it is as long as another");
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
