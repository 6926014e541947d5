//! The properties of a request that are relevant to the cache, read in one pass over its fields.

use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Body;

use super::{
    field_names::{FieldLines, FieldNames, mark},
    profile::Rules,
};
use crate::cache::{
    entry::{
        key::{RequestTarget, Uris},
        rerouting::{may_mislead, overrides_method, reroutes},
    },
    lookup::reason::CacheReason,
};

/// The properties of a request that are relevant to the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts<'a> {
    /// The class of its method.
    pub(crate) method: MethodClass,
    /// The reason why the request bypasses the cache regardless of its method, if any.
    pub(crate) bypass: Option<CacheReason>,
    /// `true` if the request has a body. A GET with a body bypasses the cache.
    pub(super) has_body: bool,
    /// The `Host` field.
    pub(crate) host: FieldLines<'a>,
    /// `true` if the request has a credential.
    pub(crate) credential: bool,
    /// `true` if a field may select another resource than the target.
    pub(crate) rerouted: bool,
    /// `true` if the request has `Range`.
    pub(crate) range: bool,
    /// `true` if the request has a precondition.
    pub(crate) condition: bool,
}

/// The effect of a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MethodClass {
    /// GET.
    #[default]
    Get,
    /// HEAD.
    Head,
    /// Safe, but not cacheable.
    Safe,
    /// Unsafe, or unknown.
    Unsafe,
}

impl From<&Method> for MethodClass {
    fn from(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::OPTIONS | Method::TRACE => Self::Safe,
            // Safe methods without a constant.
            _ if matches!(method.as_str(), "PROPFIND" | "QUERY" | "REPORT" | "SEARCH") => {
                Self::Safe
            }
            _ => Self::Unsafe,
        }
    }
}

/// Reads a request. `credentials` are the credential fields of its route, if its policy sets them.
#[inline]
pub(crate) fn read<'a, B: Body>(
    request: &'a Request<B>,
    rules: &Rules,
    credentials: Option<&FieldNames>,
) -> Facts<'a> {
    let mut facts = Facts {
        method: request.method().into(),
        ..Facts::default()
    };
    facts.has_body =
        !request.body().is_end_stream() && request.body().size_hint().exact() != Some(0);
    let credentials = credentials.unwrap_or(&rules.credential_headers);
    facts.read_fields(request.headers(), credentials);
    if !rules.credential_params.is_empty() {
        let query = request.uri().query().unwrap_or_default();
        facts.credential |= query.split('&').any(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            let mut params = rules.credential_params.iter();
            params.any(|param| is_written(name, param))
        });
    }
    facts
}

/// Returns `true` if a parameter name equals `param` after percent-decoding.
fn is_written(name: &str, param: &str) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut rest = name.as_bytes();
    param.bytes().all(|wanted| {
        let byte = match rest {
            [b'%', high, low, after @ ..] => {
                rest = after;
                digit(*high)
                    .zip(digit(*low))
                    .map(|(high, low)| (high << 4 | low) as u8)
            }
            [byte, after @ ..] => {
                rest = after;
                Some(*byte)
            }
            [] => None,
        };
        byte == Some(wanted)
    }) && rest.is_empty()
}

impl<'a> Facts<'a> {
    /// Returns the target, if the host is reliable.
    #[inline]
    pub(crate) fn target(
        &self,
        uris: Uris<'a>,
        headers: &'a HeaderMap,
    ) -> Option<RequestTarget<'a>> {
        RequestTarget::of(uris, self.host, headers, self.rerouted)
    }

    /// Returns the reason why a GET or HEAD bypasses the cache, if any.
    pub(crate) fn bypass_of_get(&self) -> Option<CacheReason> {
        let by_body = self.has_body.then_some(CacheReason::RequestBody);
        by_body.or(self.bypass)
    }

    fn read_fields(&mut self, headers: &'a HeaderMap, credentials: &FieldNames) {
        let relevant = RELEVANT_MARKS | credentials.marks();
        for (name, value) in headers {
            let text = name.as_str();
            let mark = mark(text);
            // Most fields are irrelevant, which is decided by their mark or first bytes.
            if relevant & mark == 0 && !may_mislead(text) {
                continue;
            }
            self.credential |=
                credentials.marks() & mark != 0 && credentials.as_slice().contains(name);
            let bypass = match text {
                "host" => {
                    self.host = self.host.and(value);
                    None
                }
                "accept" if begins(value, b"text/event-stream") => Some(CacheReason::EventStream),
                "range" => {
                    self.range = true;
                    None
                }
                "if-match" | "if-none-match" | "if-modified-since" | "if-unmodified-since" => {
                    self.condition = true;
                    None
                }
                "content-length" => {
                    self.has_body |= value != "0";
                    None
                }
                "transfer-encoding" => {
                    self.has_body = true;
                    None
                }
                "connection" if nominates(value) => Some(CacheReason::ConnectionOption),
                "upgrade" => Some(CacheReason::Upgrade),
                "content-type" if begins(value, b"application/grpc") => Some(CacheReason::Grpc),
                name if overrides_method(name) => Some(CacheReason::MethodOverride),
                name => {
                    self.rerouted |= reroutes(name);
                    None
                }
            };
            self.bypass = self.bypass.or(bypass);
        }
    }
}

/// The relevant fields, apart from those that may reroute.
const RELEVANT: [&str; 12] = [
    "host",
    "accept",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "content-type",
    "connection",
];

/// The marks of these fields.
const RELEVANT_MARKS: u64 = marks(&RELEVANT);

const fn marks(names: &[&str]) -> u64 {
    let (mut bits, mut at) = (0, 0);
    while at < names.len() {
        bits |= mark(names[at]);
        at += 1;
    }
    bits
}

/// The options of `Connection` that do not change the meaning of the request when they are removed.
const HARMLESS_OPTIONS: [&[u8]; 5] = [
    b"close",
    b"keep-alive",
    b"te",
    b"upgrade",
    b"http2-settings",
];

/// Returns `true` if a line of `Connection` nominates a field that an intermediary removes before
/// it forwards the request (RFC 9110 section 7.6.1). The forwarded request then differs from the
/// one that the key is derived from.
fn nominates(line: &HeaderValue) -> bool {
    let is_harmless = |option: &[u8]| {
        option.is_empty()
            || HARMLESS_OPTIONS
                .iter()
                .any(|harmless| option.eq_ignore_ascii_case(harmless))
    };
    let mut options = line.as_bytes().split(|byte| *byte == b',');
    !options.all(|option| is_harmless(option.trim_ascii()))
}

fn begins(value: &HeaderValue, with: &[u8]) -> bool {
    let head = value.as_bytes().get(..with.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(with))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;
    use crate::cache::entry::rerouting::tests::{OVERRIDING, REROUTING};

    fn with_facts<T>(
        fields: &[(&'static str, &'static str)],
        look: impl FnOnce(Facts<'_>) -> T,
    ) -> T {
        let mut request = Request::get("/?a=1&token=x")
            .body(Full::<Bytes>::default())
            .unwrap();
        for (name, value) in fields {
            request
                .headers_mut()
                .append(*name, http::HeaderValue::from_static(value));
        }
        look(read(&request, &Rules::secure(), None))
    }

    fn facts(fields: &[(&'static str, &'static str)]) -> Facts<'static> {
        with_facts(fields, |facts| Facts {
            host: FieldLines::None,
            ..facts
        })
    }

    #[test]
    fn all_hosts_are_seen() {
        let host = |fields: &[_], expected: &str| {
            let host = with_facts(fields, |facts| format!("{:?}", facts.host));
            assert_eq!(host, expected);
        };
        host(&[("accept", "a")], "None");
        host(&[("accept", "a"), ("host", "a")], "One(\"a\")");
        host(&[("host", "a"), ("host", "a"), ("host", "b")], "Several");
    }

    #[test]
    fn each_credential_is_seen() {
        for name in [
            "authorization",
            "cookie",
            "proxy-authorization",
            "sec-websocket-protocol",
            "x-api-key",
        ] {
            assert!(facts(&[(name, "")]).credential, "{name}");
        }
        assert!(!facts(&[("accept", "*/*")]).credential);
    }

    #[test]
    fn a_parameter_is_a_credential_where_the_rules_say_so() {
        let request = Request::get("/?a=1&token=x")
            .body(Full::<Bytes>::default())
            .unwrap();
        let mut rules = Rules::secure();
        assert!(!read(&request, &rules, None).credential);
        rules.credential_params.push("token".to_owned());
        assert!(read(&request, &rules, None).credential);
        rules.credential_params = vec!["tok".to_owned()];
        assert!(!read(&request, &rules, None).credential);
    }

    #[test]
    fn a_parameter_is_the_same_one_however_it_is_written() {
        for (name, is_one) in [
            ("token", true),
            ("%74oken", true),
            ("%74%6f%6B%65%6e", true),
            ("Token", false),
            ("token2", false),
            ("tok", false),
            ("", false),
            ("%7token", false),
            ("%zzoken", false),
            ("toke%6", false),
        ] {
            assert_eq!(is_written(name, "token"), is_one, "{name}");
        }
        assert!(is_written("a%20b", "a b") && is_written("a%", "a%"));
    }

    #[test]
    fn request_with_more_than_a_query_bypasses_the_cache() {
        for (name, value, reason) in [
            ("upgrade", "websocket", CacheReason::Upgrade),
            ("content-type", "application/grpc", CacheReason::Grpc),
            ("accept", "text/event-stream", CacheReason::EventStream),
            ("connection", "close, host", CacheReason::ConnectionOption),
        ] {
            assert_eq!(facts(&[(name, value)]).bypass, Some(reason), "{name}");
        }
        for name in OVERRIDING {
            let bypass = facts(&[(name, "DELETE")]).bypass;
            assert_eq!(bypass, Some(CacheReason::MethodOverride), "{name}");
        }
    }

    #[test]
    fn body_bypasses_for_get_and_hides_no_other_reason() {
        for field in [("content-length", "3"), ("transfer-encoding", "chunked")] {
            let facts = facts(&[field, ("upgrade", "websocket")]);
            assert_eq!(facts.bypass, Some(CacheReason::Upgrade));
            assert_eq!(facts.bypass_of_get(), Some(CacheReason::RequestBody));
        }
        assert_eq!(facts(&[("content-length", "0")]).bypass_of_get(), None);
        let fat = Request::get("/").body(Full::<Bytes>::from("x")).unwrap();
        assert!(read(&fat, &Rules::secure(), None).has_body);
    }

    #[test]
    fn connection_options_that_nominate_no_field_are_harmless() {
        let bypass = |lines: &[&'static str]| {
            let fields: Vec<_> = lines.iter().map(|line| ("connection", *line)).collect();
            facts(&fields).bypass
        };
        for lines in [
            &["close"][..],
            &["Keep-Alive"],
            &["TE, close"],
            &["upgrade,http2-settings"],
            &[",, close ,"],
            &["close", "te"],
            &[""],
        ] {
            assert_eq!(bypass(lines), None, "{lines:?}");
        }
        for lines in [
            &["host"][..],
            &["HOST"],
            &["close, accept-language"],
            &["close", "x-tenant"],
            &["close;host"],
            &["\"close\""],
            &["close host"],
            &["closed"],
        ] {
            assert_eq!(
                bypass(lines),
                Some(CacheReason::ConnectionOption),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn all_but_known_safe_methods_change_what_they_name() {
        let class = |method: &str| MethodClass::from(&method.parse::<Method>().unwrap());
        assert_eq!(class("GET"), MethodClass::Get);
        assert_eq!(class("OPTIONS"), MethodClass::Safe);
        for method in ["POST", "PUT", "PATCH", "DELETE", "M-SEARCH", "FROB"] {
            assert_eq!(class(method), MethodClass::Unsafe, "{method}");
        }
    }

    #[test]
    fn a_rerouting_field_is_seen() {
        for name in REROUTING {
            assert!(facts(&[(name, "x")]).rerouted, "{name}");
        }
        assert!(!facts(&[("x-request-id", "x")]).rerouted);
    }

    #[test]
    fn marks_skip_only_irrelevant_fields() {
        for name in RELEVANT {
            assert_ne!(RELEVANT_MARKS & mark(name), 0, "{name}");
        }
        for name in [
            "accept-encoding",
            "accept-language",
            "referer",
            "user-agent",
        ] {
            assert_eq!(RELEVANT_MARKS & mark(name), 0, "{name}");
        }
        for name in REROUTING.into_iter().chain(OVERRIDING) {
            assert!(may_mislead(name), "{name}");
        }
    }
}
