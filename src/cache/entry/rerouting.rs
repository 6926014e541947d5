//! Request fields by which a proxy or framework can select a resource other than the one that the
//! URL identifies.

use http::{HeaderMap, HeaderValue};

use crate::core::store_api::store_key::LongKeyWriter;

/// Families of such fields, by prefix.
const FAMILIES: [&str; 4] = [
    "x-envoy-original-",
    "x-forwarded",
    "x-original-",
    "x-rewrite-",
];

/// Further such fields.
const SINGLE: [&str; 8] = [
    "forwarded",
    "front-end-https",
    "x-host",
    "x-http-host-override",
    "x-proxy-host",
    "x-scheme",
    "x-script-name",
    "x-url-scheme",
];

/// Fields of these families that name the client or proxies and do not affect routing.
const NAMING_HOPS: [&str; 3] = [
    "x-forwarded-by",
    "x-forwarded-for",
    "x-original-forwarded-for",
];

/// Fields that override the method, by prefix.
const OVERRIDING_METHOD: [&str; 2] = ["x-http-method", "x-method"];

/// Returns `true` if the first bytes of a name are those of a field of this module. Few other names
/// match.
#[inline]
pub(crate) fn may_mislead(name: &str) -> bool {
    matches!(
        name.as_bytes(),
        [b'x', b'-' | b'_', ..] | [b'f', b'o' | b'r', ..]
    )
}

/// Returns `true` for the name of a field that can select another resource. Such fields are part of
/// the cache key.
///
/// Underscores match dashes, as in CGI and derived interfaces.
#[inline]
pub(crate) fn reroutes(name: &str) -> bool {
    may_mislead(name) && is_rerouting(name)
}

fn is_rerouting(name: &str) -> bool {
    let is_listed = |names: &[&str]| {
        let mut names = names.iter();
        names.any(|known| known.len() == name.len() && begins(name, known))
    };
    is_listed(&SINGLE)
        || (FAMILIES.iter().any(|family| begins(name, family)) && !is_listed(&NAMING_HOPS))
}

/// Returns `true` for the name of a field that overrides the method.
#[inline]
pub(crate) fn overrides_method(name: &str) -> bool {
    may_mislead(name) && OVERRIDING_METHOD.iter().any(|family| begins(name, family))
}

/// Returns `true` if a name starts with a prefix. Underscores match dashes.
fn begins(name: &str, with: &str) -> bool {
    let same = |(own, with): (u8, u8)| own == with || (own == b'_' && with == b'-');
    name.len() >= with.len() && name.bytes().zip(with.bytes()).all(same)
}

/// Writes all fields that can select another resource into a key.
pub(crate) fn write(key: &mut LongKeyWriter<'_>, headers: &HeaderMap) {
    for (name, value) in headers {
        let name = name.as_str();
        if !reroutes(name) {
            continue;
        }
        key.field(name.as_bytes());
        if name == "forwarded" {
            write_forwarded(key, value);
        } else {
            key.field(value.as_bytes());
        }
    }
}

/// Writes a line of `Forwarded` (RFC 7239) without the pairs that name the client or a proxy.
///
/// The line is split at each comma and semicolon, quoted or not, as lenient parsers do. A pair is
/// omitted only if every parser treats it as an address, so nothing that a parser could read as
/// `host` or `proto` is omitted.
fn write_forwarded(key: &mut LongKeyWriter<'_>, value: &HeaderValue) {
    let elements = || value.as_bytes().split(|byte| *byte == b',');
    let is_routing = |element: &[u8]| routing_pairs(element).next().is_some();
    if !elements().any(is_routing) {
        return;
    }
    for element in elements() {
        for pair in routing_pairs(element) {
            key.field(pair);
        }
        // Delimits the element: no pair is a comma.
        key.field(b",");
    }
}

/// Returns the pairs of an element that are not omitted.
fn routing_pairs(element: &[u8]) -> impl Iterator<Item = &[u8]> {
    let pairs = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    pairs.filter(|pair| !pair.is_empty() && !names_hop(pair))
}

/// Returns `true` if a pair is `for` or `by` with an address or an obfuscated name.
fn names_hop(pair: &[u8]) -> bool {
    let Some(equals) = pair.iter().position(|byte| *byte == b'=') else {
        return false;
    };
    let (name, value) = (&pair[..equals], pair[equals + 1..].trim_ascii());
    let name = name.trim_ascii();
    let node = match value {
        [b'"', node @ .., b'"'] => node,
        node => node,
    };
    let is_of_node = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-:[]".contains(byte);
    (name.eq_ignore_ascii_case(b"for") || name.eq_ignore_ascii_case(b"by"))
        && node.iter().all(is_of_node)
}

/// Names of fields that reroute and of fields that do not, for the tests of several modules.
#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::core::store_api::store_key::{LongStoreKey, StoreKeys};

    pub(crate) const REROUTING: [&str; 28] = [
        "forwarded",
        "front-end-https",
        "front_end_https",
        "x-envoy-original-host",
        "x-envoy-original-path",
        "x-forwarded",
        "x-forwarded-host",
        "x-forwarded-path",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-forwarded-protocol",
        "x-forwarded-scheme",
        "x-forwarded-server",
        "x-forwarded-ssl",
        "x-forwarded-uri",
        "x-forwarded-user",
        "x-host",
        "x-http-host-override",
        "x-original-host",
        "x-original-uri",
        "x-original-url",
        "x-rewrite-url",
        "x-scheme",
        "x-script-name",
        "x-url-scheme",
        "x_forwarded_host",
        "x-original_url",
    ];

    pub(crate) const OVERRIDING: [&str; 5] = [
        "x-http-method",
        "x-http-method-override",
        "x-method",
        "x-method-override",
        "x_http_method_override",
    ];

    fn forwarded(value: &str) -> LongStoreKey {
        let space = StoreKeys::from_secret(&[5; 32]).unwrap().space("f");
        let mut key = space.long();
        write_forwarded(&mut key, &HeaderValue::try_from(value).unwrap());
        key.finish()
    }

    #[test]
    fn classifies_rerouting_and_overriding_fields() {
        for name in REROUTING {
            assert!(reroutes(name) && !overrides_method(name), "{name}");
        }
        for name in OVERRIDING {
            assert!(overrides_method(name) && !reroutes(name), "{name}");
        }
        for name in [
            "accept",
            "cache-control",
            "from",
            "host",
            "x-forwarded-by",
            "x-forwarded-for",
            "x-forwarded_for",
            "x-original-forwarded-for",
            "x-real-ip",
            "x-request-id",
        ] {
            assert!(!reroutes(name) && !overrides_method(name), "{name}");
        }
    }

    #[test]
    fn forwarded_leaves_out_addresses_alone() {
        let none = forwarded("");
        for value in [
            "for=1.2.3.4",
            "For=1.2.3.4;BY=_proxy",
            "for = \"[2001:db8::1]:80\" , by=unknown",
            ",;, for=a;",
        ] {
            assert_eq!(forwarded(value), none, "{value}");
        }
        assert_eq!(
            forwarded("for=1.2.3.4;proto=http"),
            forwarded("proto=http; for=5.6.7.8")
        );
    }

    #[test]
    fn forwarded_keeps_whatever_may_be_read_as_a_host() {
        let values = [
            "host=evil",
            "host =evil",
            "host= evil",
            "HOST=\"evil\"",
            "host\t=evil",
            "for=1.2.3.4;host=evil",
            "for=\"1, host=evil\"",
            "for=\"1;host=evil\"",
            "for=\"1\\\";host=evil\"",
            "for=1 host=evil",
            "for==;host=evil",
            "for=\"host=evil\"",
            "for;host=evil",
            "=;host=evil",
            "for=1,host=evil",
            "host=evil,for=1",
            "host",
        ];
        let mut keys: Vec<_> = values.iter().map(|value| forwarded(value)).collect();
        assert!(!keys.contains(&forwarded("")));
        keys.sort_unstable();
        keys.dedup();
        // A pair in its own element is equal to one that follows an address in the same element.
        assert_eq!(keys.len(), values.len() - 1);
    }

    proptest::proptest! {
        #[test]
        fn a_host_that_a_lenient_parser_reads_is_part_of_the_key(
            before in "[a=;, \"\\\\]{0,6}",
            middle in "[ \t]{0,2}",
            after in "[a=;, \"\\\\]{0,6}",
        ) {
            let read = |value: &str| -> Vec<(usize, String)> {
                value.split(',').enumerate().flat_map(|(at, element)| {
                    element.split(';').filter_map(move |pair| {
                        let (name, host) = pair.split_once('=')?;
                        let host = host.trim().trim_matches('"');
                        name.trim().eq_ignore_ascii_case("host").then(|| (at, host.to_owned()))
                    })
                }).collect()
            };
            let with = |host: &str| format!("{before};host{middle}={host}{after}");
            let (one, two) = (with("one"), with("two"));
            if read(&one) != read(&two) {
                proptest::prop_assert_ne!(forwarded(&one), forwarded(&two));
            }
        }
    }
}
