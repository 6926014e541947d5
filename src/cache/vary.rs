//! Which of a URL's answers fits a request.

use std::{fmt, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, VARY},
};

use super::{directives::member_end, reason::Reason};
use crate::store_key::{KeySpace, StoreKey};

/// The most fields that one answer may vary by.
const FIELDS_MAX: usize = 8;

/// The request fields that a URL's answers vary by: sorted, each once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct VarySpec {
    names: Option<Arc<[HeaderName]>>,
}

impl VarySpec {
    /// Reads all lines of an answer's `Vary`.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Reason> {
        let mut names = Vec::new();
        for line in headers.get_all(VARY) {
            for name in line.as_bytes().split(|byte| *byte == b',') {
                match name.trim_ascii() {
                    b"" => {}
                    b"*" => return Err(Reason::VaryStar),
                    // What is not a name cannot be compared: it never fits.
                    name => {
                        names.push(HeaderName::from_bytes(name).map_err(|_| Reason::VaryStar)?);
                    }
                }
            }
        }
        Self::from_names(names).ok_or(Reason::VaryTooMany)
    }

    /// Creates a spec of these fields. `None` if they are more than a cache looks at.
    pub fn from_names(mut names: Vec<HeaderName>) -> Option<Self> {
        names.sort_unstable_by(|one, two| one.as_str().cmp(two.as_str()));
        names.dedup();
        match names.len() {
            0 => Some(Self::default()),
            len if len <= FIELDS_MAX => Some(Self {
                names: Some(names.into()),
            }),
            _ => None,
        }
    }

    /// Returns the fields.
    pub fn names(&self) -> &[HeaderName] {
        self.names.as_deref().unwrap_or_default()
    }

    /// Returns whether the answer is the same for all requests.
    pub fn is_empty(&self) -> bool {
        self.names.is_none()
    }
}

impl fmt::Debug for VarySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Which one of a URL's answers: a keyed digest of the fields that it varies by and of their
/// values in the request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VariantId(StoreKey);

impl VariantId {
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(StoreKey::from_bytes(bytes))
    }

    /// Returns the digest, for a store to make a name of.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for VariantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VariantId({})", self.0)
    }
}

/// What a store asks of a request, to find the one of a URL's answers that fits it.
#[derive(Clone, Copy)]
pub struct Selection<'a> {
    headers: &'a HeaderMap,
    variants: &'a Variants,
    hint: Option<&'a VarySpec>,
}

/// How variants are told apart.
#[derive(Clone, Debug)]
pub(super) struct Variants {
    keys: KeySpace,
    /// Whether preferences count by what they say, and not by how that is written.
    normalise: bool,
}

impl Variants {
    pub(super) fn new(keys: KeySpace, normalise: bool) -> Self {
        Self { keys, normalise }
    }
}

impl<'a> Selection<'a> {
    pub(super) fn new(headers: &'a HeaderMap, variants: &'a Variants) -> Self {
        Self {
            headers,
            variants,
            hint: None,
        }
    }

    pub(super) fn with_hint(self, hint: &'a VarySpec) -> Self {
        Self {
            hint: Some(hint),
            ..self
        }
    }

    /// Returns what the store itself said that the answers vary by, when it is asked again.
    pub fn hint(&self) -> Option<&VarySpec> {
        self.hint
    }

    /// Returns the one that fits the request among answers that vary by these fields.
    pub fn variant(&self, spec: &VarySpec) -> VariantId {
        let mut id = self.variants.keys.short();
        for name in spec.names() {
            id.field(name.as_str().as_bytes());
            let mut values = self.headers.get_all(name).iter().peekable();
            // Absent and empty are two values.
            id.field(&[u8::from(values.peek().is_some())]);
            if self.variants.normalise && (name == ACCEPT_LANGUAGE || name == ACCEPT_ENCODING) {
                for member in preferences(values) {
                    id.field(&member);
                }
            } else {
                for value in values {
                    each_member(value, |member| {
                        id.field(member);
                    });
                }
            }
            // Ends the list: `a: 1` beside `b: 2` is not `a: 1, b, 2`.
            id.field(b",");
        }
        VariantId(id.finish())
    }
}

impl fmt::Debug for Selection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection")
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

/// Returns the members of lists of preferences in one case and order, without space: they say the
/// same in any.
fn preferences<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Vec<Vec<u8>> {
    let mut members = Vec::new();
    for value in values {
        each_member(value, |member| {
            let mut member = member.to_ascii_lowercase();
            member.retain(|byte| !byte.is_ascii_whitespace());
            members.push(member);
        });
    }
    members.sort_unstable();
    members
}

/// Gives each member of a list without the space around it, so that lists that mean the same are
/// the same: on one line or on several, with spaces or without (RFC 9111 section 4.1).
fn each_member(value: &HeaderValue, mut give: impl FnMut(&[u8])) {
    let mut rest = value.as_bytes();
    while !rest.is_empty() {
        let end = member_end(rest);
        let member = rest[..end].trim_ascii();
        rest = rest.get(end + 1..).unwrap_or_default();
        if !member.is_empty() {
            give(member);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_key::StoreKeys;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn spec(lines: &[&'static str]) -> Result<VarySpec, Reason> {
        let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
        VarySpec::of(&headers(&lines))
    }

    fn id(vary: &'static str, fields: &[(&'static str, &'static str)]) -> VariantId {
        normalised_id(vary, fields, false)
    }

    fn normalised_id(
        vary: &'static str,
        fields: &[(&'static str, &'static str)],
        normalise: bool,
    ) -> VariantId {
        let space = StoreKeys::from_secret(&[3; 32]).unwrap().space("v");
        let (headers, variants) = (headers(fields), Variants::new(space, normalise));
        Selection::new(&headers, &variants).variant(&spec(&[vary]).unwrap())
    }

    #[test]
    fn preferences_that_say_the_same_are_the_same_where_they_are_normalised() {
        let id = |value, normalise| {
            normalised_id("accept-language", &[("accept-language", value)], normalise)
        };
        assert_eq!(id("en, de;q=0.5", true), id("De; q=0.5,eN", true));
        assert_ne!(id("en, de;q=0.5", true), id("en;q=0.5, de", true));
        assert_ne!(id("en, de", false), id("de, en", false));
    }

    #[test]
    fn names_are_read_from_all_lines_in_any_case_and_order() {
        assert_eq!(spec(&["B, a", "A,,"]), spec(&["a, b"]));
        assert!(spec(&["", ","]).unwrap().is_empty());
    }

    #[test]
    fn a_star_anywhere_fits_nothing() {
        assert_eq!(spec(&["a", "b, *"]), Err(Reason::VaryStar));
        assert_eq!(spec(&["a b"]), Err(Reason::VaryStar));
    }

    #[test]
    fn more_fields_than_the_bound_are_refused() {
        assert!(spec(&["a,b,c,d,e,f,g,h"]).is_ok());
        assert_eq!(spec(&["a,b,c,d,e,f,g,h,i"]), Err(Reason::VaryTooMany));
    }

    #[test]
    fn lists_that_mean_the_same_are_the_same() {
        let one = id("a", &[("a", "1, 2")]);
        assert_eq!(one, id("a", &[("a", "1"), ("a", "2")]));
        assert_eq!(one, id("a", &[("a", " 1 ,2,")]));
        assert_ne!(one, id("a", &[("a", "2, 1")]));
        assert_ne!(one, id("a", &[("a", "\"1, 2\"")]));
    }

    #[test]
    fn absent_and_empty_are_two_values() {
        assert_ne!(id("a", &[]), id("a", &[("a", "")]));
    }

    #[test]
    fn one_fields_value_is_not_anothers() {
        assert_ne!(id("a, b", &[("a", "1")]), id("a, b", &[("b", "1")]));
        assert_ne!(
            id("a, b", &[("a", "1, b")]),
            id("a, b", &[("a", "1"), ("b", "")])
        );
    }
}
