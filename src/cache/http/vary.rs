//! Selection of the variant that matches a request.

use std::{fmt, iter, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, GetAll, VARY,
    },
};

use super::{cache_control::member_end, field_names::FieldNames};
use crate::{
    cache::lookup::reason::CacheReason,
    core::store_api::store_key::{KeySpace, ShortKeyWriter, StoreKey},
};

/// The maximum number of fields that a response can vary by.
const MAX_FIELDS: usize = 8;

/// The request fields that the responses of a URL vary by, sorted and without duplicates.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct VarySpec {
    names: Option<Arc<[HeaderName]>>,
}

impl VarySpec {
    /// Parses all lines of a response's `Vary`.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, CacheReason> {
        let mut names = Vec::new();
        for line in headers.get_all(VARY) {
            for name in line.as_bytes().split(|byte| *byte == b',') {
                match name.trim_ascii() {
                    b"" => {}
                    b"*" => return Err(CacheReason::VaryStar),
                    // An invalid name cannot be compared, so the response never matches.
                    name => {
                        names
                            .push(HeaderName::from_bytes(name).map_err(|_| CacheReason::VaryStar)?);
                    }
                }
            }
        }
        Self::from_names(names).ok_or(CacheReason::VaryTooMany)
    }

    /// Creates a spec of these fields. Returns `None` if there are more than 8 fields.
    pub fn from_names(mut names: Vec<HeaderName>) -> Option<Self> {
        names.sort_unstable_by(|one, two| one.as_str().cmp(two.as_str()));
        names.dedup();
        match names.len() {
            0 => Some(Self::default()),
            len if len <= MAX_FIELDS => Some(Self {
                names: Some(names.into()),
            }),
            _ => None,
        }
    }

    /// Returns the fields.
    pub fn names(&self) -> &[HeaderName] {
        self.names.as_deref().unwrap_or_default()
    }

    /// Returns `true` if there are no fields: the response is the same for all requests.
    pub fn is_empty(&self) -> bool {
        self.names.is_none()
    }
}

impl fmt::Debug for VarySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// The identifier of a variant: a keyed digest of the request fields that select the variant and of
/// their values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VariantId(StoreKey);

impl VariantId {
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(StoreKey::from_bytes(bytes))
    }

    /// Returns the digest, which a store can use in the names of its keys.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for VariantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VariantId({})", self.0)
    }
}

/// The request fields by which a store selects a variant.
#[derive(Clone, Copy)]
pub struct Selection<'a> {
    headers: &'a HeaderMap,
    variants: &'a Variants,
    hint: Option<&'a VarySpec>,
}

/// The request fields whose values are lists, by default (RFC 9110 section 5.6.1).
const LISTS: [HeaderName; 5] = [
    ACCEPT,
    ACCEPT_CHARSET,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CACHE_CONTROL,
];

/// The rules by which variants are distinguished.
#[derive(Clone, Debug)]
pub(crate) struct Variants {
    keys: KeySpace,
    /// `true` if preferences are compared by meaning rather than spelling.
    normalize: bool,
    /// The fields that are compared member by member. All others are compared line by line.
    lists: FieldNames,
}

impl Variants {
    pub(crate) fn new(keys: KeySpace, normalize: bool) -> Self {
        Self {
            keys,
            normalize,
            lists: LISTS.into_iter().collect(),
        }
    }

    /// Adds list-valued request fields.
    pub(crate) fn list_headers(mut self, names: FieldNames) -> Self {
        let names = names.as_slice().iter().cloned();
        names.for_each(|name| self.lists.push(name));
        self
    }

    /// Writes all lines of a field into an id, delimited from the next field.
    fn write(&self, id: &mut ShortKeyWriter, name: &HeaderName, lines: &GetAll<'_, HeaderValue>) {
        let count = lines.iter().count();
        if !self.lists.contains(name) {
            id.field(&(count as u64).to_le_bytes());
            lines.iter().for_each(|line| write(id, line.as_bytes()));
            return;
        }
        // Absent and empty are different values.
        id.field(&[u8::from(count > 0)]);
        if self.normalize && (name == ACCEPT_LANGUAGE || name == ACCEPT_ENCODING) {
            let members = preferences(lines.iter());
            members.iter().for_each(|member| write(id, member));
        } else {
            let members = lines.iter().flat_map(members);
            members.for_each(|member| write(id, member));
        }
        // A delimiter: no member is a comma.
        id.field(b",");
    }
}

impl<'a> Selection<'a> {
    pub(crate) fn new(headers: &'a HeaderMap, variants: &'a Variants) -> Self {
        Self {
            headers,
            variants,
            hint: None,
        }
    }

    pub(crate) fn with_hint(self, hint: &'a VarySpec) -> Self {
        Self {
            hint: Some(hint),
            ..self
        }
    }

    /// Returns the fields that a previous lookup of the store returned
    /// ([`Found::Varies`](crate::store::backend::Found::Varies)), if the lookup is repeated.
    pub fn hint(&self) -> Option<&VarySpec> {
        self.hint
    }

    /// Returns the variant that matches the request, for entries that vary by these fields.
    pub fn variant(&self, spec: &VarySpec) -> VariantId {
        let mut id = self.variants.keys.short();
        for name in spec.names() {
            id.field(name.as_str().as_bytes());
            let lines = self.headers.get_all(name);
            self.variants.write(&mut id, name, &lines);
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

fn write(id: &mut ShortKeyWriter, field: &[u8]) {
    id.field(field);
}

/// Returns the members of preference lists in lower case, sorted and without whitespace, so that
/// lists with the same meaning are equal.
fn preferences<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> Vec<Vec<u8>> {
    let members = lines.flat_map(members).map(|member| {
        let mut member = member.to_ascii_lowercase();
        member.retain(|byte| !byte.is_ascii_whitespace());
        member
    });
    let mut members: Vec<_> = members.collect();
    members.sort_unstable();
    members
}

/// Returns the members of a list without the surrounding whitespace, so that lists are equal
/// regardless of whitespace and the number of lines (RFC 9111 section 4.1).
///
/// Empty members are retained: a handler that compares the whole value distinguishes `a,` from `a`.
fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line.as_bytes());
    iter::from_fn(move || {
        let line = rest?;
        let end = member_end(line);
        rest = line.get(end + 1..);
        Some(line[..end].trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store_api::store_key::StoreKeys;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn spec(lines: &[&'static str]) -> Result<VarySpec, CacheReason> {
        let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
        VarySpec::of(&headers(&lines))
    }

    fn id(vary: &'static str, fields: &[(&'static str, &'static str)]) -> VariantId {
        normalized_id(vary, fields, false)
    }

    fn normalized_id(
        vary: &'static str,
        fields: &[(&'static str, &'static str)],
        normalize: bool,
    ) -> VariantId {
        let space = StoreKeys::from_secret(&[3; 32]).unwrap().space("v");
        let (headers, variants) = (headers(fields), Variants::new(space, normalize));
        Selection::new(&headers, &variants).variant(&spec(&[vary]).unwrap())
    }

    #[test]
    fn preferences_that_say_the_same_are_the_same_where_they_are_normalized() {
        let id = |value, normalize| {
            normalized_id("accept-language", &[("accept-language", value)], normalize)
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
        assert_eq!(spec(&["a", "b, *"]), Err(CacheReason::VaryStar));
        assert_eq!(spec(&["a b"]), Err(CacheReason::VaryStar));
    }

    #[test]
    fn more_fields_than_the_bound_are_refused() {
        assert!(spec(&["a,b,c,d,e,f,g,h"]).is_ok());
        assert_eq!(spec(&["a,b,c,d,e,f,g,h,i"]), Err(CacheReason::VaryTooMany));
    }

    #[test]
    fn lists_are_equal_on_any_lines_and_with_any_space() {
        let id = |lines: &[&'static str]| {
            let fields: Vec<_> = lines.iter().map(|line| ("accept", *line)).collect();
            id("accept", &fields)
        };
        let one = id(&["1, 2"]);
        assert_eq!(one, id(&["1", "2"]));
        assert_eq!(one, id(&[" 1 ,2"]));
        for other in ["2, 1", "\"1, 2\"", "1, 2,", ",1, 2", "1,, 2"] {
            assert_ne!(one, id(&[other]), "{other}");
        }
    }

    #[test]
    fn other_fields_are_compared_byte_by_byte_and_line_by_line() {
        for (one, two) in [
            (&["a"][..], &["a,"][..]),
            (&["a"], &[",a"]),
            (&["a, b"], &["a,b"]),
            (&["a, b"], &["a", "b"]),
            (&["a", "b"], &["b", "a"]),
            (&["a"], &["a", ""]),
            (&[], &[""]),
            (&["a"], &["A"]),
            (&[","], &["", ""]),
        ] {
            for name in ["origin", "user-agent", "x-tenant"] {
                let [id_of_one, id_of_two] = [one, two].map(|lines| {
                    let fields: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
                    id(name, &fields)
                });
                assert_ne!(id_of_one, id_of_two, "{name}: {one:?} {two:?}");
            }
        }
    }

    #[test]
    fn added_list_headers_are_lists() {
        let id = |line, is_list: bool| {
            let space = StoreKeys::from_secret(&[3; 32]).unwrap().space("v");
            let names = [HeaderName::from_static("a")]
                .into_iter()
                .take(usize::from(is_list));
            let variants = Variants::new(space, false).list_headers(names.collect());
            let headers = headers(&[("a", line)]);
            Selection::new(&headers, &variants).variant(&spec(&["a"]).unwrap())
        };
        assert_eq!(id("1,2", true), id("1, 2", true));
        assert_ne!(id("1,2", false), id("1, 2", false));
    }

    #[test]
    fn absent_and_empty_are_two_values() {
        for name in ["a", "accept"] {
            assert_ne!(id(name, &[]), id(name, &[(name, "")]));
        }
    }

    #[test]
    fn one_fields_value_is_not_anothers() {
        assert_ne!(id("a, b", &[("a", "1")]), id("a, b", &[("b", "1")]));
        for (vary, one, two) in [
            ("a, b", "a", "b"),
            ("a, accept", "a", "accept"),
            ("accept, b", "accept", "b"),
            ("accept, accept-charset", "accept", "accept-charset"),
        ] {
            assert_ne!(
                id(vary, &[(one, "1"), (one, two)]),
                id(vary, &[(one, "1"), (two, "")])
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn ids_are_equal_only_for_equal_lines(
            one in proptest::collection::vec("[ab,]{0,3}", 0..3),
            two in proptest::collection::vec("[ab,]{0,3}", 0..3),
        ) {
            let id = |lines: &[String]| {
                let space = StoreKeys::from_secret(&[3; 32]).unwrap().space("v");
                let mut headers = HeaderMap::new();
                for line in lines {
                    headers.append("origin", HeaderValue::try_from(line).unwrap());
                }
                let variants = Variants::new(space, true);
                Selection::new(&headers, &variants).variant(&spec(&["origin"]).unwrap())
            };
            proptest::prop_assert_eq!(one == two, id(&one) == id(&two));
        }
    }
}
