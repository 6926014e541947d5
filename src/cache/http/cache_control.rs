//! `Cache-Control`, parsed into numbers and flags.

use http::{
    HeaderMap, HeaderName,
    header::{CACHE_CONTROL, PRAGMA},
};

use super::structured_fields::{self, Item};

/// The maximum number of seconds of a field value (RFC 9111 section 1.2.2).
pub(crate) const DELTA_SECS_MAX: u32 = 1 << 31;

/// The cache directives of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseDirectives {
    pub(crate) max_age_secs: Option<u32>,
    pub(crate) s_maxage_secs: Option<u32>,
    pub(crate) stale_while_revalidate_secs: Option<u32>,
    pub(crate) stale_if_error_secs: Option<u32>,
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    pub(super) must_understand: bool,
    /// `true` if the directives are those of a targeted field, which also replaces `Expires`.
    pub(crate) targeted: bool,
    /// The fields that must not be served without revalidation (`no-cache="f"`), and the fields
    /// that must not be stored in the shared partition (`private="f"`).
    pub(super) no_cache_fields: Vec<HeaderName>,
    pub(super) private_fields: Vec<HeaderName>,
}

const SURROGATE_CONTROL: &str = "surrogate-control";

/// A response field that replaces `Cache-Control` for the caches that list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Targeted {
    /// A structured field of RFC 9213, such as `CDN-Cache-Control`.
    Structured(HeaderName),
    /// `Surrogate-Control`, as the Edge Architecture Specification of the W3C defines it.
    Surrogate,
}

impl Targeted {
    /// Returns the targeted field of this name, in the syntax that the name implies.
    pub(crate) fn of(name: HeaderName) -> Self {
        match name == SURROGATE_CONTROL {
            true => Self::Surrogate,
            false => Self::Structured(name),
        }
    }

    /// Returns the name of the field, in lower case.
    #[inline]
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Structured(name) => name.as_str(),
            Self::Surrogate => SURROGATE_CONTROL,
        }
    }
}

impl ResponseDirectives {
    /// Parses the first targeted field that is present, valid and not empty, or else all lines of
    /// `Cache-Control` (RFC 9213 section 2.2).
    pub(crate) fn of(headers: &HeaderMap, targeted: &[Targeted]) -> Self {
        let targeted = targeted.iter().find_map(|field| match field {
            Targeted::Structured(name) => structured_field(headers, name),
            Targeted::Surrogate => surrogate_control(headers),
        });
        if let Some(read) = targeted {
            return read;
        }
        let mut read = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            let line = line.as_bytes();
            for_each_directive(line, |name, value| read.take_unclear(name, value));
            // The intended end of the quoted string is unknown.
            read.no_store |= leaves_quotes_open(line);
        }
        read
    }

    /// Returns `true` if a directive states a freshness lifetime.
    pub(super) fn states_lifetime(&self) -> bool {
        self.s_maxage_secs.is_some() || self.max_age_secs.is_some()
    }

    /// Applies a directive whose name can be followed by invalid text, such as a space. Its
    /// restriction still applies, and its value is ignored.
    fn take_unclear(&mut self, name: &[u8], value: Option<&[u8]>) {
        match name.iter().position(|byte| b" \t;".contains(byte)) {
            None => self.take(name, value),
            Some(end) => self.take(&name[..end], Some(b"")),
        };
    }

    /// Applies one directive. Returns `true` if the cache implements it.
    fn take(&mut self, name: &[u8], value: Option<&[u8]>) -> bool {
        if is(name, "max-age") {
            smallest(&mut self.max_age_secs, value);
        } else if is(name, "s-maxage") {
            smallest(&mut self.s_maxage_secs, value);
        } else if is(name, "stale-while-revalidate") {
            smallest(&mut self.stale_while_revalidate_secs, value);
        } else if is(name, "stale-if-error") {
            smallest(&mut self.stale_if_error_secs, value);
        } else if is(name, "no-store") {
            self.no_store = true;
        } else if is(name, "no-cache") {
            self.no_cache |= !fields(value, &mut self.no_cache_fields);
        } else if is(name, "private") {
            self.private |= !fields(value, &mut self.private_fields);
        } else if is(name, "public") {
            self.public = true;
        } else if is(name, "must-revalidate") {
            self.must_revalidate = true;
        } else if is(name, "proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if is(name, "must-understand") {
            self.must_understand = true;
        } else {
            return false;
        }
        true
    }
}

/// Parses a structured targeted field. Returns `None` if it is absent, empty or not a dictionary: a
/// cache ignores such a field (RFC 9213 section 2.1).
fn structured_field(headers: &HeaderMap, name: &HeaderName) -> Option<ResponseDirectives> {
    let mut joined = String::new();
    for line in headers.get_all(name) {
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(line.to_str().ok()?);
    }
    let members = structured_fields::dictionary(&joined).filter(|members| !members.is_empty())?;
    let mut read = ResponseDirectives {
        targeted: true,
        ..ResponseDirectives::default()
    };
    for (name, item) in members {
        let counts_seconds = matches!(
            name,
            "max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error"
        );
        // A directive with a value of the wrong type is ignored.
        match item {
            Item::Integer(secs) if counts_seconds => {
                read.take(name.as_bytes(), Some(secs.to_string().as_bytes()));
            }
            Item::Boolean(true) if !counts_seconds => {
                read.take(name.as_bytes(), None);
            }
            Item::Text(fields) if !counts_seconds => {
                read.take(name.as_bytes(), Some(fields.as_bytes()));
            }
            Item::Integer(_) | Item::Boolean(_) | Item::Text(_) | Item::Other => {}
        }
    }
    Some(read)
}

/// Parses `Surrogate-Control`. Each directive can name a surrogate after a semicolon. Returns
/// `None` if no cache directive applies to this cache, for example if the field only announces
/// content to process.
fn surrogate_control(headers: &HeaderMap) -> Option<ResponseDirectives> {
    let mut read = ResponseDirectives {
        targeted: true,
        ..ResponseDirectives::default()
    };
    let mut applies = false;
    for line in headers.get_all(SURROGATE_CONTROL) {
        for_each_directive(line.as_bytes(), |name, value| {
            let (name, in_name) = before_target(name);
            let (value, in_value) = match value.map(before_target) {
                Some((value, target)) => (Some(value), target),
                None => (None, None),
            };
            let ours = |target: &[u8]| target.eq_ignore_ascii_case(b"portcullis");
            if in_name.or(in_value).is_none_or(ours) {
                applies |= read.take(name, value);
            }
        });
    }
    applies.then_some(read)
}

fn before_target(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == b';') {
        Some(at) => (text[..at].trim_ascii(), Some(text[at + 1..].trim_ascii())),
        None => (text, None),
    }
}

/// The cache directives of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestDirectives {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age_secs: Option<u32>,
    pub(crate) min_fresh_secs: Option<u32>,
    /// The maximum staleness; `u32::MAX` if there is no limit.
    pub(crate) max_stale_secs: Option<u32>,
    pub(crate) stale_if_error_secs: Option<u32>,
}

impl RequestDirectives {
    /// Parses all lines of `Cache-Control`, or `Pragma: no-cache` if there are none.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut read = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            for_each_directive(line.as_bytes(), |name, value| read.take(name, value));
        }
        if !headers.contains_key(CACHE_CONTROL) {
            for line in headers.get_all(PRAGMA) {
                for_each_directive(line.as_bytes(), |name, _| {
                    read.no_cache |= is(name, "no-cache");
                });
            }
        }
        read
    }

    fn take(&mut self, name: &[u8], value: Option<&[u8]>) {
        if is(name, "no-store") {
            self.no_store = true;
        } else if is(name, "no-cache") {
            self.no_cache = true;
        } else if is(name, "only-if-cached") {
            self.only_if_cached = true;
        } else if is(name, "max-age") {
            smallest(&mut self.max_age_secs, value);
        } else if is(name, "stale-if-error") {
            smallest(&mut self.stale_if_error_secs, value);
        } else if is(name, "min-fresh") {
            // An invalid value is ignored.
            self.min_fresh_secs = value.and_then(delta_seconds).or(self.min_fresh_secs);
        } else if is(name, "max-stale") {
            self.max_stale_secs = match value {
                None => Some(u32::MAX),
                Some(value) => delta_seconds(value).or(self.max_stale_secs),
            };
        }
    }
}

/// Calls `take` with the name and value of each directive. A quoted value is passed without its
/// quotes; separators between quotes do not end a directive.
fn for_each_directive(line: &[u8], mut take: impl FnMut(&[u8], Option<&[u8]>)) {
    let mut rest = line;
    while !rest.is_empty() {
        let end = member_end(rest);
        let member = rest[..end].trim_ascii();
        rest = rest.get(end + 1..).unwrap_or_default();
        if member.is_empty() {
            continue;
        }
        match member.iter().position(|byte| *byte == b'=') {
            None => take(member, None),
            Some(at) => take(&member[..at], Some(unquoted(&member[at + 1..]))),
        }
    }
}

/// Returns the end of the first member of a list: a comma outside quotes, or the end of the list.
pub(super) fn member_end(list: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    list.len()
}

/// Returns `true` if a line ends inside a quoted string.
fn leaves_quotes_open(line: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    quoted
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

fn is(name: &[u8], directive: &str) -> bool {
    name.eq_ignore_ascii_case(directive.as_bytes())
}

/// Parses a number of seconds. A number that is too large becomes [`DELTA_SECS_MAX`].
pub(super) fn delta_seconds(value: &[u8]) -> Option<u32> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u32, |secs, byte| {
        let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'))?;
        let secs = secs.saturating_mul(10).saturating_add(digit);
        Some(secs.min(DELTA_SECS_MAX))
    })
}

/// Stores the smaller of two values. An invalid value counts as zero, so that the response is stale
/// (RFC 9111 section 4.2.1).
fn smallest(kept: &mut Option<u32>, value: Option<&[u8]>) {
    let secs = value.and_then(delta_seconds).unwrap_or(0);
    *kept = Some(kept.map_or(secs, |kept| kept.min(secs)));
}

/// Adds the field names of `no-cache="a, b"`. Returns `false` if none is valid: the directive then
/// applies to the whole response.
fn fields(value: Option<&[u8]>, names: &mut Vec<HeaderName>) -> bool {
    let Some(value) = value else { return false };
    let mut listed = Vec::new();
    for name in value.split(|byte| *byte == b',') {
        match HeaderName::from_bytes(name.trim_ascii()) {
            Ok(name) => listed.push(name),
            Err(_) => return false,
        }
    }
    names.extend(listed);
    true
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn response(lines: &[&'static str]) -> ResponseDirectives {
        ResponseDirectives::of(&headers(lines), &[])
    }

    fn request(lines: &[&'static str]) -> RequestDirectives {
        RequestDirectives::of(&headers(lines))
    }

    fn headers(lines: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        headers
    }

    #[test]
    fn names_are_read_in_any_case_and_on_any_line() {
        let read = response(&["MAX-AGE=60, PUBLIC", "No-Store", " , ,Private ,"]);
        assert_eq!(read.max_age_secs, Some(60));
        assert!(read.public && read.no_store && read.private);
    }

    #[test]
    fn quoted_text_is_one_value() {
        let read = response(&[r#"ext="no-store, max-age=1, \" private", max-age="60""#]);
        assert_eq!(read.max_age_secs, Some(60));
        assert!(!read.no_store && !read.private);
    }

    #[test]
    fn unreadable_freshness_is_no_freshness() {
        for value in [
            "max-age=1h",
            "max-age=-1",
            "max-age=",
            "max-age",
            "max-age=1.5",
        ] {
            assert_eq!(response(&[value]).max_age_secs, Some(0), "{value}");
        }
    }

    #[test]
    fn the_smallest_of_repeated_values_counts() {
        assert_eq!(
            response(&["max-age=9", "max-age=3, max-age=7"]).max_age_secs,
            Some(3)
        );
    }

    #[test]
    fn numbers_saturate() {
        let read = response(&["max-age=18446744073709551616"]);
        assert_eq!(read.max_age_secs, Some(DELTA_SECS_MAX));
    }

    #[test]
    fn directives_with_fields_spare_the_rest() {
        let read = response(&[r#"private="x-a, X-B", no-cache=x-c"#]);
        assert!(!read.private && !read.no_cache);
        assert_eq!(read.private_fields, ["x-a", "x-b"]);
        assert_eq!(read.no_cache_fields, ["x-c"]);
    }

    #[test]
    fn unreadable_fields_stand_for_all() {
        assert!(response(&[r#"private="""#]).private);
        assert!(response(&[r#"no-cache="a b""#]).no_cache);
    }

    #[test]
    fn malformed_directive_forbids_and_permits_nothing() {
        for line in [
            "private =x",
            "private\t=\"x-a\"",
            "private;x",
            "private x",
            "max-age=9, private = x",
        ] {
            assert!(response(&[line]).private, "{line}");
        }
        assert!(response(&["no-store =1"]).no_store && response(&["no-store;x"]).no_store);
        assert!(response(&["no-cache = x-a"]).no_cache);
        for line in ["max-age =60", "max-age= 60", "max-age x=60", "max-age;x=60"] {
            assert_eq!(response(&[line]).max_age_secs, Some(0), "{line}");
        }
    }

    #[test]
    fn text_after_an_unterminated_quote_forbids_storing() {
        for line in [
            r#"max-age=9, ext="a, private"#,
            r#"max-age=9, ext="a\", no-store"#,
            r#"max-age=9, private="x-a"#,
        ] {
            assert!(response(&[line]).no_store, "{line}");
        }
        assert!(!response(&[r#"max-age=9, ext="\"", ext="#]).no_store);
    }

    #[test]
    fn a_request_asks_in_the_same_grammar() {
        let read = request(&[
            "no-cache, max-age=5, min-fresh=3",
            "max-stale",
            "only-if-cached",
        ]);
        assert!(read.no_cache && read.only_if_cached);
        assert_eq!(read.max_age_secs, Some(5));
        assert_eq!(read.min_fresh_secs, Some(3));
        assert_eq!(read.max_stale_secs, Some(u32::MAX));
    }

    #[test]
    fn pragma_counts_where_there_is_no_cache_control() {
        let mut headers = HeaderMap::new();
        headers.insert(PRAGMA, HeaderValue::from_static("foo, No-Cache"));
        assert!(RequestDirectives::of(&headers).no_cache);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=1"));
        assert!(!RequestDirectives::of(&headers).no_cache);
    }

    fn cdn() -> HeaderName {
        HeaderName::from_static("cdn-cache-control")
    }

    fn targeted(field: &'static str) -> ResponseDirectives {
        let mut headers = headers(&["max-age=1, no-store"]);
        headers.insert(cdn(), HeaderValue::from_static(field));
        ResponseDirectives::of(&headers, &[Targeted::Structured(cdn())])
    }

    #[test]
    fn a_targeted_field_goes_before_cache_control() {
        let read = targeted("max-age=60;x, must-revalidate, private=\"x-a\"");
        assert!(read.targeted && read.must_revalidate && !read.no_store && !read.private);
        assert_eq!(read.max_age_secs, Some(60));
        assert_eq!(read.private_fields, ["x-a"]);
        assert_eq!(targeted("max-age=-1").max_age_secs, Some(0));
    }

    #[test]
    fn a_targeted_field_that_cannot_be_read_is_absent() {
        for field in ["", "max-age=60, &&", "Max-Age=60"] {
            let read = targeted(field);
            assert!(!read.targeted && read.no_store, "{field}");
        }
    }

    #[test]
    fn a_directive_of_another_type_than_its_own_is_none() {
        let read = targeted("max-age=\"60\", no-store=?0, s-maxage");
        assert!(read.targeted && !read.no_store);
        assert_eq!((read.max_age_secs, read.s_maxage_secs), (None, None));
    }

    #[test]
    fn directive_for_another_surrogate_is_ignored() {
        let surrogate = |field| {
            let mut headers = headers(&["max-age=1"]);
            headers.insert("surrogate-control", HeaderValue::from_static(field));
            ResponseDirectives::of(&headers, &[Targeted::Surrogate]).max_age_secs
        };
        assert_eq!(surrogate("Max-Age=60"), Some(60));
        assert_eq!(surrogate("max-age=60;portcullis"), Some(60));
        assert_eq!(surrogate("max-age=60;other"), Some(1));
        assert_eq!(surrogate("content=\"ESI/1.0\""), Some(1));
        assert_eq!(surrogate("content=\"ESI/1.0\", max-age=60"), Some(60));
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(0x20_u8..0x7f, 0..80)) {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_bytes(&line).unwrap());
            let _ = (
                ResponseDirectives::of(&headers, &[]),
                RequestDirectives::of(&headers),
            );
        }
    }
}
