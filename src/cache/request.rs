//! What a request is to the cache: read in one pass over its fields.

use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body::Body;

use super::{
    field_names::FieldNames,
    key::{Host, REROUTING, Target, reroutes},
    reason::Reason,
    rules::Rules,
};

/// What a request is to the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts<'a> {
    /// What its method does.
    pub(super) method: MethodClass,
    /// Why it is none for the cache, if it is not.
    pub(super) bypass: Option<Reason>,
    /// To which host it was sent.
    pub(super) host: Host<'a>,
    /// Whether it bears a credential.
    pub(super) credential: bool,
    /// Whether a field may lead it elsewhere than its target says.
    pub(super) rerouted: bool,
    /// Whether it asks for a part.
    pub(super) range: bool,
    /// Whether it has a condition.
    pub(super) condition: bool,
}

/// What a method does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum MethodClass {
    /// GET.
    #[default]
    Get,
    /// HEAD.
    Head,
    /// Safe, and none for the cache.
    Safe,
    /// Changes what it names, for all that is known.
    Unsafe,
}

impl From<&Method> for MethodClass {
    fn from(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::OPTIONS | Method::TRACE => Self::Safe,
            // Safe, and without a constant.
            _ if matches!(method.as_str(), "PROPFIND" | "QUERY" | "REPORT" | "SEARCH") => {
                Self::Safe
            }
            _ => Self::Unsafe,
        }
    }
}

/// Reads a request. `credentials` are the fields that are one on its route, if that has its own.
#[inline]
pub(super) fn read<'a, B: Body>(
    request: &'a Request<B>,
    rules: &Rules,
    credentials: Option<&FieldNames>,
) -> Facts<'a> {
    let mut facts = Facts {
        method: request.method().into(),
        ..Facts::default()
    };
    if !request.body().is_end_stream() && request.body().size_hint().exact() != Some(0) {
        facts.bypass = Some(Reason::RequestBody);
    }
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

/// Returns whether a parameter's name stands for this one, with some of its letters as `%xx`.
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
    /// Returns the target, if it can be relied on.
    #[inline]
    pub(super) fn target(&self, uri: &'a Uri, headers: &'a HeaderMap) -> Option<Target<'a>> {
        Target::of(uri, self.host, headers, self.rerouted)
    }

    fn read_fields(&mut self, headers: &'a HeaderMap, credentials: &FieldNames) {
        for (name, value) in headers {
            let text = name.as_str();
            self.credential |= credentials.contains(name);
            // Most fields say nothing to the cache, and their length tells.
            if TELLING_LENGTHS & length_bit(text) == 0 {
                continue;
            }
            let bypass = match text {
                "host" => {
                    self.host = self.host.and(value);
                    None
                }
                "accept" if begins(value, b"text/event-stream") => Some(Reason::EventStream),
                "range" => {
                    self.range = true;
                    None
                }
                "if-match" | "if-none-match" | "if-modified-since" | "if-unmodified-since" => {
                    self.condition = true;
                    None
                }
                "content-length" if value != "0" => Some(Reason::RequestBody),
                "transfer-encoding" => Some(Reason::RequestBody),
                "upgrade" => Some(Reason::Upgrade),
                "content-type" if begins(value, b"application/grpc") => Some(Reason::Grpc),
                "x-http-method" | "x-http-method-override" | "x-method-override" => {
                    Some(Reason::MethodOverride)
                }
                name => {
                    self.rerouted |= reroutes(name);
                    None
                }
            };
            self.bypass = self.bypass.or(bypass);
        }
    }
}

/// The fields that say something to the cache, beside those by which requests are rerouted.
const TELLING: [&str; 14] = [
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
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// A bit for each length that one of them has.
const TELLING_LENGTHS: u64 = lengths(&TELLING) | lengths(&REROUTING);

const fn lengths(names: &[&str]) -> u64 {
    let (mut bits, mut at) = (0, 0);
    while at < names.len() {
        bits |= length_bit(names[at]);
        at += 1;
    }
    bits
}

/// Returns a bit for each length under 64, and none for longer ones.
const fn length_bit(name: &str) -> u64 {
    match 1_u64.checked_shl(name.len() as u32) {
        Some(bit) => bit,
        None => 0,
    }
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
            host: Host::None,
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
    fn what_is_more_than_a_question_is_none_for_the_cache() {
        for (name, value, reason) in [
            ("content-length", "3", Reason::RequestBody),
            ("transfer-encoding", "chunked", Reason::RequestBody),
            ("upgrade", "websocket", Reason::Upgrade),
            ("content-type", "application/grpc", Reason::Grpc),
            ("accept", "text/event-stream", Reason::EventStream),
            ("x-http-method-override", "DELETE", Reason::MethodOverride),
        ] {
            assert_eq!(facts(&[(name, value)]).bypass, Some(reason), "{name}");
        }
        assert_eq!(facts(&[("content-length", "0")]).bypass, None);
        let fat = Request::get("/").body(Full::<Bytes>::from("x")).unwrap();
        assert_eq!(
            read(&fat, &Rules::secure(), None).bypass,
            Some(Reason::RequestBody)
        );
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
}
