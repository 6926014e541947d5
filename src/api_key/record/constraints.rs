//! Restrictions of a key to networks, methods and origins.

use std::net::IpAddr;

use http::{HeaderMap, Method, header::ORIGIN};

use super::invalid::InvalidKeySpec;
use crate::core::net::ip_network::IpNetwork;

const ENTRIES_MAX: usize = 64;
const ENTRY_LEN_MAX: usize = 256;

/// Restrictions of a key to networks, methods and origins. An empty list imposes no restriction.
///
/// ```
/// use http::Method;
/// use portcullis::api_key::Constraints;
///
/// let office_reads = Constraints::new()
///     .networks(["203.0.113.0/24".parse()?])
///     .methods([Method::GET, Method::HEAD]);
/// # let _ = office_reads;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Constraints {
    pub(crate) networks: Vec<IpNetwork>,
    pub(crate) methods: Vec<Method>,
    pub(crate) origins: Vec<String>,
}

impl Constraints {
    /// Creates constraints that restrict nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Restricts the key to clients in these networks, of which there can be at most 64. Requests
    /// without a known client address receive `403`.
    pub fn networks(mut self, networks: impl IntoIterator<Item = IpNetwork>) -> Self {
        self.networks = networks.into_iter().collect();
        self
    }

    /// Restricts the key to these methods, of which there can be at most 64.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// Restricts the key to pages from these origins, of which there can be at most 64. Each origin
    /// must have the form that a browser sends in `Origin`, such as `https://app.example`. Requests
    /// without `Origin` receive `403`.
    ///
    /// This restriction prevents pages on other sites from using the key. Clients other than
    /// browsers can send any `Origin`.
    pub fn origins<I>(mut self, origins: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.origins = origins.into_iter().map(Into::into).collect();
        self
    }

    /// Returns `true` if a request can use the key. `address` is called only for network
    /// restrictions.
    pub(crate) fn admit(
        &self,
        method: &Method,
        headers: &HeaderMap,
        address: impl FnOnce() -> Option<IpAddr>,
    ) -> bool {
        let method_fits = self.methods.is_empty() || self.methods.contains(method);
        let origin_fits = self.origins.is_empty() || self.admits_origin(headers);
        let network_fits = || {
            self.networks.is_empty()
                || address().is_some_and(|ip| self.networks.iter().any(|own| own.contains(ip)))
        };
        method_fits && origin_fits && network_fits()
    }

    /// Returns `true` if every request that these constraints admit is admitted by the others too.
    pub(crate) fn are_within(&self, others: &Self) -> bool {
        let networks = is_within(&self.networks, &others.networks, |own, other| {
            other.contains_network(own)
        });
        let methods = is_within(&self.methods, &others.methods, Method::eq);
        let origins = is_within(&self.origins, &others.origins, String::eq);
        networks && methods && origins
    }

    fn admits_origin(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(ORIGIN).iter();
        match (lines.next(), lines.next()) {
            (Some(origin), None) => self.origins.iter().any(|own| origin == own.as_str()),
            (None, _) | (Some(_), Some(_)) => false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), InvalidKeySpec> {
        let lists = [
            ("networks", self.networks.len()),
            ("methods", self.methods.len()),
            ("origins", self.origins.len()),
        ];
        if let Some((field, _)) = lists.into_iter().find(|(_, len)| *len > ENTRIES_MAX) {
            return Err(InvalidKeySpec::new(field, "has more than 64 entries"));
        }
        let is_origin = |origin: &String| {
            origin.contains("://") && origin.len() <= ENTRY_LEN_MAX && !origin.ends_with('/')
        };
        if !self.origins.iter().all(is_origin) {
            return Err(InvalidKeySpec::new(
                "origins",
                "has an entry that is not of the form `https://app.example`",
            ));
        }
        if self
            .methods
            .iter()
            .any(|own| own.as_str().len() > ENTRY_LEN_MAX)
        {
            return Err(InvalidKeySpec::new(
                "methods",
                "has an entry of more than 256 bytes",
            ));
        }
        Ok(())
    }
}

/// Returns `true` if each entry is part of one of the others. An empty list does not restrict.
fn is_within<T>(own: &[T], others: &[T], lies_in: impl Fn(&T, &T) -> bool) -> bool {
    let lies_in_one = |one: &T| others.iter().any(|other| lies_in(one, other));
    others.is_empty() || (!own.is_empty() && own.iter().all(lies_in_one))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn office() -> Constraints {
        Constraints::new().networks(["203.0.113.0/24".parse().unwrap()])
    }

    /// Threat A16: another spelling of an address, or no address, is not admitted.
    #[test]
    fn a_network_is_judged_by_the_address_that_is_meant() {
        let admits = |ip: Option<&str>| {
            let ip = ip.map(|ip| ip.parse().unwrap());
            office().admit(&Method::GET, &HeaderMap::new(), || ip)
        };
        assert!(admits(Some("203.0.113.9")));
        assert!(admits(Some("::ffff:203.0.113.9")));
        assert!(!admits(Some("198.51.100.1")));
        assert!(!admits(Some("::203.0.113.9")));
        assert!(!admits(None));
    }

    #[test]
    fn an_origin_is_taken_whole_and_alone() {
        let app = Constraints::new().origins(["https://app.example"]);
        let admits = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(ORIGIN, HeaderValue::from_static(line));
            }
            app.admit(&Method::GET, &headers, || None)
        };
        assert!(admits(&["https://app.example"]));
        for wrong in ["null", "https://app.example.evil", "http://app.example", ""] {
            assert!(!admits(&[wrong]), "{wrong}");
        }
        assert!(!admits(&[]));
        assert!(!admits(&["https://app.example", "https://app.example"]));
    }

    #[test]
    fn a_method_is_one_of_the_list() {
        let reads = Constraints::new().methods([Method::GET, Method::HEAD]);
        let admits = |method| reads.admit(&method, &HeaderMap::new(), || None);
        assert!(admits(Method::HEAD));
        assert!(!admits(Method::POST));
    }

    #[test]
    fn an_address_is_not_asked_for_without_need() {
        let anywhere = Constraints::new();
        let asked = || panic!("nobody needs it");
        assert!(anywhere.admit(&Method::GET, &HeaderMap::new(), asked));
    }

    #[test]
    fn constraints_are_within_others_if_they_admit_nothing_more() {
        let wide = Constraints::new()
            .networks(["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()])
            .methods([Method::GET, Method::HEAD]);
        let network = |text: &str| wide.clone().networks([text.parse().unwrap()]);
        assert!(wide.are_within(&wide));
        assert!(wide.are_within(&Constraints::new()));
        assert!(!Constraints::new().are_within(&wide));
        assert!(network("10.1.0.0/16").are_within(&wide));
        for wider in ["11.0.0.0/8", "0.0.0.0/0", "::/0", "10.0.0.0/7"] {
            assert!(!network(wider).are_within(&wide), "{wider}");
        }
        assert!(wide.clone().methods([Method::GET]).are_within(&wide));
        assert!(!wide.clone().methods([Method::PUT]).are_within(&wide));
        assert!(!wide.clone().methods([]).are_within(&wide));
        assert!(
            wide.clone()
                .origins(["https://a.example"])
                .are_within(&wide)
        );
    }

    #[test]
    fn invalid_origin_is_refused() {
        for wrong in ["app.example", "https://app.example/", ""] {
            assert!(
                Constraints::new().origins([wrong]).check().is_err(),
                "{wrong}"
            );
        }
    }
}
