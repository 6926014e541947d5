//! The client's address, which is the peer's address or an address that trusted proxies forward.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use http::{Extensions, HeaderMap};

use super::{
    address_source::{AddressFn, AddressSource},
    client_addr::{ClientAddr, DEFAULT_IPV6_PREFIX},
    trusted_proxies::{ForwardedHeader, TrustedProxies},
};
use crate::core::{
    error::ConfigError,
    framework,
    net::forwarded::{hops, parse_element, parse_node, rsplit_unquoted},
    notice,
};

/// The number of requests in this process for which the trusted proxies are checked.
const PROXIES_CHECKED_MAX: u32 = 1_024;

/// The peer address of the connection, stored as a request extension.
///
/// The accept loop of a hyper server inserts this extension into each request. For tonic and other
/// servers, [`PeerAddrLayer`](crate::net::PeerAddrLayer) inserts the extension. An axum server with
/// `ConnectInfo<SocketAddr>` needs no `PeerAddr`. If both are present, `PeerAddr` takes precedence.
///
/// A Unix socket has no peer address. If the proxy connects through a Unix socket, insert a
/// loopback address. For example, `PeerAddr(([127, 0, 0, 1], 0).into())` represents the proxy,
/// which is then the first trusted hop.
///
/// ```
/// use portcullis::PeerAddr;
///
/// # fn main() -> Result<(), std::net::AddrParseError> {
/// // The address that `TcpListener::accept` returned together with the stream.
/// let addr = "203.0.113.9:4711".parse()?;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(PeerAddr(addr));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// Resolves the client address of a request.
///
/// By default, the client address is the peer's address: [`PeerAddr`] if the request has one, and
/// otherwise the address from the framework (axum's `ConnectInfo<SocketAddr>`, with the feature
/// `axum`). Behind proxies, the peer is the last proxy, so configure which proxies to trust:
///
/// ```
/// use http::{Extensions, HeaderMap, HeaderValue};
/// use portcullis::{ClientAddrResolver, PeerAddr, TrustedProxies};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let resolver = ClientAddrResolver::new(TrustedProxies::cidrs(["10.0.0.0/8"])?);
///
/// let mut extensions = Extensions::new();
/// extensions.insert(PeerAddr("10.0.0.7:443".parse()?));
/// let mut headers = HeaderMap::new();
/// // The client sent the first entry, the proxy added the second.
/// headers.insert("x-forwarded-for", HeaderValue::from_static("1.1.1.1, 203.0.113.9"));
///
/// assert_eq!(resolver.resolve(&extensions, &headers)?.to_string(), "203.0.113.9");
/// # Ok(())
/// # }
/// ```
///
/// All lines of the header form a single list. An entry is an address with an optional port; an
/// IPv6 address with a port is in brackets. Any other entry (`unknown`, an obfuscated `_name`, a
/// zone id) ends the search. In that case, the client is the entry to the right of the invalid
/// entry, or the peer if there is no such entry. IPv4-mapped IPv6 addresses (`::ffff:192.0.2.1`)
/// count as IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddrResolver {
    pub(super) source: AddressSource,
    forwarded_header: ForwardedHeader,
    ipv6_prefix: u8,
}

impl ClientAddrResolver {
    /// Creates a resolver that trusts these proxies.
    ///
    /// The resolver reads `X-Forwarded-For` and treats an IPv6 /56 as one client.
    pub fn new(trusted_proxies: TrustedProxies) -> Self {
        Self::from_source(AddressSource::Proxies(trusted_proxies))
    }

    /// Creates a resolver that calls a function with the peer's address and the request's headers.
    ///
    /// The function returns the client's address, or `None` if the peer is the client. The function
    /// must decide which peers to trust, because the client controls the headers of any other peer.
    ///
    /// ```
    /// use std::net::IpAddr;
    ///
    /// use http::HeaderMap;
    /// use portcullis::ClientAddrResolver;
    ///
    /// // A sidecar on this host writes the address and a signature of it.
    /// let resolver = ClientAddrResolver::from_fn(|peer: IpAddr, headers: &HeaderMap| {
    ///     let sent = headers.get("x-sidecar-client")?.to_str().ok()?;
    ///     peer.is_loopback().then(|| sent.parse().ok())?
    /// });
    /// # let _ = resolver;
    /// ```
    pub fn from_fn<F>(function: F) -> Self
    where
        F: Fn(IpAddr, &HeaderMap) -> Option<IpAddr> + Send + Sync + 'static,
    {
        Self::from_source(AddressSource::Function(AddressFn::new(function)))
    }

    fn from_source(source: AddressSource) -> Self {
        Self {
            source,
            forwarded_header: ForwardedHeader::default(),
            ipv6_prefix: DEFAULT_IPV6_PREFIX,
        }
    }

    /// Sets the header that the trusted proxies write. Defaults to `X-Forwarded-For`.
    ///
    /// Each trusted proxy must write this header. If a proxy passes the header on unchanged, the
    /// client controls the contents of the header.
    #[must_use]
    pub fn forwarded_header(mut self, header: impl Into<ForwardedHeader>) -> Self {
        self.forwarded_header = header.into();
        self
    }

    /// Sets the prefix length that identifies an IPv6 client. Defaults to 56. The value must be
    /// from 32 to 128.
    ///
    /// An Internet customer usually has an entire network, often a /56 or a /64, and can use any
    /// address in that network. With a longer prefix, one client can count as several clients. With
    /// a shorter prefix, neighbors share a limit.
    ///
    /// # Errors
    ///
    /// Returns an error if the prefix is shorter than 32 bits or longer than 128 bits.
    pub fn ipv6_prefix(mut self, bits: u8) -> Result<Self, ConfigError> {
        if !(32..=128).contains(&bits) {
            let problem = "the prefix must be 32 to 128 bits long";
            return Err(ConfigError::new("ipv6_prefix", bits, problem).fix("use 56 or 64"));
        }
        self.ipv6_prefix = bits;
        Ok(self)
    }

    /// Returns the client's address from a request's extensions and headers.
    ///
    /// # Errors
    ///
    /// Returns an error if the peer address is missing. The address is never guessed, and forwarded
    /// headers do not replace it. The first such error is also reported as a notice.
    pub fn resolve(
        &self,
        extensions: &Extensions,
        headers: &HeaderMap,
    ) -> Result<ClientAddr, MissingClientAddrError> {
        Ok(self.resolve_behind(peer_ip(extensions)?, headers))
    }

    /// Returns the client's address for a known peer.
    pub(crate) fn resolve_behind(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddr {
        match &self.source {
            AddressSource::Proxies(TrustedProxies::None) => {
                self.report_unnamed_proxy(peer, headers);
            }
            AddressSource::Proxies(proxies) => self.check_proxies(proxies, peer, headers),
            AddressSource::Function(_) => {}
        }
        self.client(peer, headers)
    }

    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddr {
        let ip = match &self.source {
            AddressSource::Proxies(TrustedProxies::None) => peer,
            AddressSource::Proxies(proxies) => self.client_behind(proxies, peer, headers),
            AddressSource::Function(function) => function.client(peer, headers),
        };
        ClientAddr {
            ip,
            ipv6_prefix: self.ipv6_prefix,
        }
    }

    #[inline(never)]
    fn client_behind(&self, proxies: &TrustedProxies, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines = headers.get_all(self.forwarded_header.name()).iter().rev();
        match &self.forwarded_header {
            ForwardedHeader::XForwardedFor => {
                let entries = lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','));
                proxies.client(peer, hops(entries).map(parse_node))
            }
            ForwardedHeader::Forwarded => {
                let entries = lines.flat_map(|line| rsplit_unquoted(line.as_bytes(), b','));
                proxies.client(peer, hops(entries).map(parse_element))
            }
            ForwardedHeader::Single(_) => {
                let mut values = lines.map(|line| parse_node(line.as_bytes().trim_ascii()));
                let value = values.next().filter(|_| values.next().is_none());
                proxies.client(peer, value.into_iter())
            }
        }
    }

    /// Checks the headers of the trusted proxies for the first requests in the process.
    #[inline]
    fn check_proxies(&self, proxies: &TrustedProxies, peer: IpAddr, headers: &HeaderMap) {
        static LEFT: AtomicU32 = AtomicU32::new(PROXIES_CHECKED_MAX);

        let left = LEFT.load(Ordering::Relaxed);
        if left == 0 {
            return;
        }
        LEFT.store(left - 1, Ordering::Relaxed);
        match proxies.contains(peer) {
            false => self.report_unnamed_proxy(peer, headers),
            true => self.report_other_header(headers),
        }
    }

    /// Reports once that trusted proxies write a header other than the header that is read.
    fn report_other_header(&self, headers: &HeaderMap) {
        static SAID: AtomicBool = AtomicBool::new(false);

        let (own, other) = (&self.forwarded_header, self.forwarded_header.other());
        if !SAID.load(Ordering::Relaxed)
            && !headers.contains_key(own.name())
            && headers.contains_key(other.name())
        {
            notice::misconfigured(&SAID, || other_header(own, &other));
        }
    }

    /// Reports once that requests appear to come through a proxy that is not configured.
    fn report_unnamed_proxy(&self, peer: IpAddr, headers: &HeaderMap) {
        static SAID: AtomicBool = AtomicBool::new(false);

        if is_neighbor(peer)
            && !SAID.load(Ordering::Relaxed)
            && headers.contains_key(self.forwarded_header.name())
        {
            notice::once(&SAID, || unnamed_proxy_notice(peer, &self.forwarded_header));
        }
    }
}

impl Default for ClientAddrResolver {
    fn default() -> Self {
        Self::new(TrustedProxies::None)
    }
}

/// The error for a request whose client is unknown because the peer address is missing.
///
/// A layer that needs the address responds with `500`, because the server is misconfigured. If all
/// unknown clients counted as one client, one of them could lock out the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the client's address is not known: {}; for hyper, insert `portcullis::PeerAddr(addr)` into \
     each request's extensions; for tonic, add `portcullis::net::PeerAddrLayer`",
    axum_fix(framework::READS_CONNECT_INFO)
)]
#[non_exhaustive]
pub struct MissingClientAddrError;

/// Returns the fix for axum, with the most likely cause first.
fn axum_fix(reads_connect_info: bool) -> &'static str {
    match reads_connect_info {
        true => "for axum, serve with `into_make_service_with_connect_info::<SocketAddr>()`",
        false => {
            "for axum, enable `features = [\"axum\"]` of portcullis and serve with \
             `into_make_service_with_connect_info::<SocketAddr>()`"
        }
    }
}

fn other_header(own: &ForwardedHeader, other: &ForwardedHeader) -> ConfigError {
    let problem = format!(
        "a trusted proxy sent `{}` and not this field, so the proxy counts as the client",
        other.name()
    );
    ConfigError::new("forwarded_header", own.name(), problem).fix(format!(
        "call `forwarded_header(ForwardedHeader::{other:?})`, or have the proxy write `{}`",
        own.name()
    ))
}

/// Returns the peer's address, if a server has inserted it.
#[inline]
pub(crate) fn peer_addr(extensions: &Extensions) -> Option<&SocketAddr> {
    let inserted = extensions.get().map(|PeerAddr(addr)| addr);
    inserted.or_else(|| framework::peer_addr(extensions))
}

fn peer_ip(extensions: &Extensions) -> Result<IpAddr, MissingClientAddrError> {
    match peer_addr(extensions) {
        Some(addr) => Ok(addr.ip().to_canonical()),
        None => {
            notice::once(&MISSING_REPORTED, || MissingClientAddrError.to_string());
            Err(MissingClientAddrError)
        }
    }
}

/// `true` once this process has reported a missing peer address.
pub(super) static MISSING_REPORTED: AtomicBool = AtomicBool::new(false);

fn is_neighbor(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback(),
    }
}

fn unnamed_proxy_notice(peer: IpAddr, header: &ForwardedHeader) -> String {
    format!(
        "{peer} sends `{}`, but it is not a trusted proxy: if it is a proxy, all clients behind it count \
         as one; name it by `TrustedProxies`",
        header.name()
    )
}

#[cfg(test)]
mod tests {
    use http::{
        HeaderValue,
        header::{FORWARDED, HeaderName},
    };
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::core::{
        net::{
            client_addr::trusted_proxies::X_FORWARDED_FOR,
            forwarded::{MAX_ENTRIES, MAX_NODE_BYTES},
            ip_network::IpNetwork,
        },
        store_api::store_key::StoreKeys,
    };

    #[test]
    fn missing_address_names_the_feature_axum_unless_it_is_enabled() {
        let error = MissingClientAddrError.to_string();
        assert!(error.contains(axum_fix(framework::READS_CONNECT_INFO)));
        let connect_info = "into_make_service_with_connect_info";
        let missing = axum_fix(false);
        let feature_at = missing.find("features = [\"axum\"]").unwrap();
        assert!(feature_at < missing.find(connect_info).unwrap());
        let enabled = axum_fix(true);
        assert!(enabled.contains(connect_info) && !enabled.contains("features"));
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn networks(networks: &[&str]) -> ClientAddrResolver {
        ClientAddrResolver::new(TrustedProxies::cidrs(networks).unwrap())
    }

    fn hop_count(hops: usize) -> ClientAddrResolver {
        ClientAddrResolver::new(TrustedProxies::Hops(hops))
    }

    fn from_peer(peer: IpAddr) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(PeerAddr((peer, 4711).into()));
        extensions
    }

    fn header_lines<L: AsRef<[u8]>>(name: &HeaderName, lines: &[L]) -> HeaderMap {
        let value = |line: &L| HeaderValue::from_bytes(line.as_ref()).unwrap();
        lines.iter().map(|line| (name.clone(), value(line))).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        )
    }

    /// Returns the client that the resolver finds with these lines of its header.
    fn client(resolver: &ClientAddrResolver, peer: &str, lines: &[&str]) -> String {
        let headers = header_lines(resolver.forwarded_header.name(), lines);
        let client = resolver.resolve(&from_peer(ip(peer)), &headers);
        client.unwrap().to_string()
    }

    /// Returns the client behind one proxy that writes a `Forwarded` header with this value.
    fn forwarded(value: &str) -> String {
        let resolver = hop_count(1).forwarded_header(ForwardedHeader::Forwarded);
        client(&resolver, "10.0.0.7", &[value])
    }

    #[test]
    fn by_default_the_peer_is_the_client_whatever_the_headers_say() {
        let resolver = ClientAddrResolver::default();
        for peer in ["203.0.113.9", "10.0.0.7"] {
            assert_eq!(client(&resolver, peer, &["1.1.1.1"]), peer);
        }
    }

    #[test]
    fn unknown_peer_is_an_error_that_names_the_missing_calls() {
        let headers = header_lines(&X_FORWARDED_FOR, &["1.1.1.1"]);
        for resolver in [ClientAddrResolver::default(), hop_count(1)] {
            let error = resolver.resolve(&Extensions::new(), &headers).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("into_make_service_with_connect_info::<SocketAddr>()"));
            assert!(text.contains("portcullis::PeerAddr(addr)"));
        }
    }

    #[test]
    fn a_peer_outside_of_the_trusted_networks_is_the_client() {
        let resolver = networks(&["10.0.0.0/8"]);
        assert_eq!(
            client(&resolver, "203.0.113.9", &["1.1.1.1"]),
            "203.0.113.9"
        );
    }

    #[test]
    fn the_first_untrusted_hop_from_the_right_is_the_client() {
        let resolver = networks(&["10.0.0.0/8", "fd00::/8"]);
        let entries = "1.1.1.1, 203.0.113.9, 10.0.0.8, fd00::2";
        assert_eq!(client(&resolver, "10.0.0.7", &[entries]), "203.0.113.9");
        assert_eq!(client(&resolver, "fd00::1", &[entries]), "203.0.113.9");
    }

    #[test]
    fn leftmost_address_is_the_client_if_every_hop_is_trusted() {
        let resolver = networks(&["10.0.0.0/8"]);
        assert_eq!(
            client(&resolver, "10.0.0.7", &["10.0.0.9, 10.0.0.8"]),
            "10.0.0.9"
        );
        assert_eq!(client(&resolver, "10.0.0.7", &[]), "10.0.0.7");
    }

    #[test]
    fn an_entry_that_does_not_parse_ends_the_walk() {
        let resolver = networks(&["10.0.0.0/8"]);
        for entry in [
            "unknown",
            "_hidden",
            "10.0.0.x",
            "\u{661}.1.1.1",
            "for=10.0.0.9",
        ] {
            let right = format!("1.1.1.1, {entry}, 10.0.0.8");
            assert_eq!(client(&resolver, "10.0.0.7", &[&right]), "10.0.0.8");
            let rightmost = format!("1.1.1.1, {entry}");
            assert_eq!(client(&resolver, "10.0.0.7", &[&rightmost]), "10.0.0.7");
            assert_eq!(client(&hop_count(2), "10.0.0.7", &[&rightmost]), "10.0.0.7");
        }
    }

    #[test]
    fn all_lines_of_the_header_are_one_list() {
        let lines = ["1.1.1.1", "203.0.113.9, 10.0.0.9", "10.0.0.8"];
        assert_eq!(
            client(&networks(&["10.0.0.0/8"]), "10.0.0.7", &lines),
            "203.0.113.9"
        );
        assert_eq!(client(&hop_count(3), "10.0.0.7", &lines), "203.0.113.9");
    }

    #[test]
    fn behind_n_hops_the_client_is_the_nth_entry_from_the_right() {
        let entries = ["1.1.1.1, 203.0.113.9, 198.51.100.1"];
        for (hops, expected) in [(0, "10.0.0.7"), (1, "198.51.100.1"), (2, "203.0.113.9")] {
            assert_eq!(client(&hop_count(hops), "10.0.0.7", &entries), expected);
        }
    }

    #[test]
    fn with_fewer_entries_than_hops_the_leftmost_is_the_client() {
        assert_eq!(
            client(&hop_count(3), "10.0.0.7", &["203.0.113.9"]),
            "203.0.113.9"
        );
        assert_eq!(client(&hop_count(3), "10.0.0.7", &[]), "10.0.0.7");
    }

    #[test]
    fn empty_entries_are_no_hops_and_spaces_do_not_count() {
        let entries = ["203.0.113.9 ,, \t10.0.0.8\t , ", ""];
        assert_eq!(client(&hop_count(2), "10.0.0.7", &entries), "203.0.113.9");
    }

    #[test]
    fn no_more_entries_are_read_than_the_bound() {
        let trusted = ["10.0.0.8"; MAX_ENTRIES].join(",");
        let reachable = format!("203.0.113.9{}", &trusted["10.0.0.8".len()..]);
        let beyond = format!("203.0.113.9,{trusted}");
        let resolver = networks(&["10.0.0.0/8"]);
        assert_eq!(client(&resolver, "10.0.0.7", &[&reachable]), "203.0.113.9");
        assert_eq!(client(&resolver, "10.0.0.7", &[&beyond]), "10.0.0.8");
        let empty = format!("203.0.113.9{}", ",".repeat(MAX_ENTRIES));
        assert_eq!(client(&resolver, "10.0.0.7", &[&empty]), "10.0.0.7");
    }

    #[test]
    fn only_the_header_that_was_chosen_is_read() {
        let mut headers = header_lines(&X_FORWARDED_FOR, &["203.0.113.9"]);
        headers.insert(FORWARDED, HeaderValue::from_static("for=198.51.100.1"));
        for (header, expected) in [
            (ForwardedHeader::XForwardedFor, "203.0.113.9"),
            (ForwardedHeader::Forwarded, "198.51.100.1"),
        ] {
            let resolver = hop_count(1).forwarded_header(header);
            let client = resolver.resolve(&from_peer(ip("10.0.0.7")), &headers);
            assert_eq!(client.unwrap().ip(), ip(expected));
        }
    }

    #[test]
    fn an_address_may_have_a_port_and_ipv6_brackets() {
        for (node, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:80", "192.0.2.1"),
            ("192.0.2.1:_http", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("2001:DB8::192.0.2.1", "2001:db8::c000:201"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::FFFF:c000:201]:80", "192.0.2.1"),
        ] {
            assert_eq!(parse_node(node.as_bytes()), Some(ip(expected)), "{node}");
        }
    }

    #[test]
    fn rejects_malformed_addresses() {
        let long = format!("[2001:db8::1]:_{}", "a".repeat(MAX_NODE_BYTES));
        for node in [
            "",
            "unknown",
            "_hidden",
            "example.com",
            "192.0.2",
            "192.0.2.01",
            "192.0.2.1:",
            "192.0.2.1:+80",
            "192.0.2.1:123456",
            "192.0.2.1:_",
            "192.0.2.1:80:80",
            "[192.0.2.1]:80",
            "[2001:db8::1",
            "2001:db8::1]",
            "[2001:db8::1]80",
            "[2001:db8::1]:",
            "[2001:db8::1]:x",
            "fe80::1%eth0",
            "fe80::1%1",
            "[fe80::1%1]:80",
            "\"192.0.2.1\"",
            &long,
        ] {
            assert_eq!(parse_node(node.as_bytes()), None, "{node}");
        }
        assert_eq!(parse_node(b"192.0.2.1\xff"), None);
    }

    #[test]
    fn a_forwarded_element_gives_its_for_address() {
        for (value, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("FOR=192.0.2.1", "192.0.2.1"),
            ("for=\"192.0.2.1\"", "192.0.2.1"),
            ("for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("proto=https;for=192.0.2.1;by=203.0.113.43", "192.0.2.1"),
            (";; for=192.0.2.1 ; proto=https ;", "192.0.2.1"),
            ("for=1.1.1.1, for=192.0.2.1;host=\"a,b;for=c\"", "192.0.2.1"),
            (
                r#"host="a\", for=1.1.1.1;x=\"b";for=192.0.2.1"#,
                "192.0.2.1",
            ),
            (r#"for=192.0.2.1;host="a\\""#, "192.0.2.1"),
            (r#"for=192.0.2.1;host="a\\\"b""#, "192.0.2.1"),
        ] {
            assert_eq!(forwarded(value), expected, "{value}");
        }
    }

    #[test]
    fn a_forwarded_element_without_one_clear_address_ends_the_walk() {
        for value in [
            "for=unknown",
            "for=_hidden",
            "for=\"_hidden:80\"",
            "for=",
            "for=\"\"",
            "for",
            "proto=https",
            "for=192.0.2.1;secure",
            "for=192.0.2.1;for=192.0.2.1",
            "for=\"192.0.2.1",
            "for=192.0.2.1\"",
            "for=\"192.0.2.1\"x",
            "for=\"\"192.0.2.1\"\"",
            "for=192.0.2.1;host=\"",
            "192.0.2.1",
            "xfor=192.0.2.1",
        ] {
            let value = format!("for=1.1.1.1, {value}");
            assert_eq!(forwarded(&value), "10.0.0.7", "{value}");
        }
    }

    #[test]
    fn a_quote_that_the_client_leaves_open_swallows_no_entry_of_the_proxy() {
        for forged in [
            r#"for=""#,
            r#"for=1.1.1.1;x=""#,
            r#"x="\"#,
            r#"""#,
            r#"x=",for=1.1.1.1;y=""#,
        ] {
            for added in ["for=203.0.113.9", r#"for="203.0.113.9:80";host="a""#] {
                assert_eq!(forwarded(&format!("{forged}, {added}")), "203.0.113.9");
            }
        }
    }

    #[test]
    fn an_ipv4_peer_in_ipv6_form_is_an_ipv4_client_and_proxy() {
        assert_eq!(client(&hop_count(0), "::ffff:192.0.2.1", &[]), "192.0.2.1");
        let resolver = networks(&["10.0.0.0/8"]);
        let entries = ["::ffff:203.0.113.9, ::ffff:10.0.0.8"];
        assert_eq!(
            client(&resolver, "::ffff:10.0.0.7", &entries),
            "203.0.113.9"
        );
        let resolver = networks(&["::ffff:10.0.0.0/104"]);
        assert_eq!(client(&resolver, "10.0.0.7", &entries), "203.0.113.9");
    }

    #[test]
    fn the_addresses_of_one_ipv6_customer_are_one_client() {
        let resolver = ClientAddrResolver::default();
        let bytes = |resolver: &ClientAddrResolver, peer| {
            let client = resolver.resolve(&from_peer(ip(peer)), &HeaderMap::new());
            client.unwrap().partition_bytes()
        };
        let home = bytes(&resolver, "2001:db8:0:a00::1");
        assert_eq!(home, bytes(&resolver, "2001:db8:0:aff:ffff::1"));
        assert_ne!(home, bytes(&resolver, "2001:db8:0:b00::1"));

        let single = resolver.ipv6_prefix(128).unwrap();
        let home = bytes(&single, "2001:db8:0:a00::1");
        assert_ne!(home, bytes(&single, "2001:db8:0:a00::2"));
    }

    #[test]
    fn no_two_networks_have_the_same_bytes() {
        let bytes = |addr: &str, prefix| {
            let ipv6_prefix = prefix;
            let ip = ip(addr);
            ClientAddr { ip, ipv6_prefix }.partition_bytes()
        };
        assert_eq!(bytes("1.2.3.4", 56), bytes("1.2.3.4", 64));
        assert_ne!(bytes("1.2.3.4", 56), bytes("1.2.3.5", 56));
        assert_ne!(bytes("1.2.3.4", 32), bytes("102:304::", 32));
        assert_ne!(bytes("2001:db8::", 56), bytes("2001:db8::", 64));
    }

    #[test]
    fn clients_whose_bytes_differ_have_different_keys_and_no_others() {
        let space = StoreKeys::from_secret(&[7; 32]).unwrap().space("s");
        let addresses = [
            "1.2.3.4",
            "4.3.2.1",
            "102:304::",
            "2001:db8::",
            "2001:db8:0:a00::1",
        ];
        let clients: Vec<_> = addresses
            .iter()
            .flat_map(|addr| [32, 33, 56, 64, 127, 128].map(|ipv6_prefix| (ip(addr), ipv6_prefix)))
            .map(|(ip, ipv6_prefix)| ClientAddr { ip, ipv6_prefix })
            .collect();
        for one in &clients {
            for other in &clients {
                let same = one.partition_bytes() == other.partition_bytes();
                assert_eq!(one.store_key(&space) == other.store_key(&space), same);
            }
        }
    }

    #[test]
    fn network_displays_the_prefix_that_is_counted() {
        let client = ClientAddr::from(ip("2001:db8:0:aff::1"));
        assert_eq!(client.network().to_string(), "2001:db8:0:a00::/56");
        let client = ClientAddr::from(ip("::ffff:192.0.2.1"));
        assert_eq!(client.network().to_string(), "192.0.2.1/32");
    }

    #[test]
    fn a_prefix_that_names_no_client_is_refused() {
        for bits in [0, 31, 129, 255] {
            let error = ClientAddrResolver::default().ipv6_prefix(bits).unwrap_err();
            assert_eq!(error.option(), "ipv6_prefix");
            assert_eq!(error.value(), bits.to_string());
        }
    }

    #[test]
    fn lists_of_networks_that_can_only_be_a_mistake_are_refused() {
        for network in [
            "0.0.0.0/0",
            "::/0",
            "::ffff:0:0/96",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "lb",
            "",
        ] {
            let error = TrustedProxies::cidrs(["192.168.0.0/16", network]).unwrap_err();
            assert_eq!(error.option(), "trusted_proxies");
            assert_eq!(error.value(), network);
        }
        let none: [&str; 0] = [];
        assert!(TrustedProxies::cidrs(none).is_err());
    }

    #[test]
    fn rejects_network_with_host_bits_and_suggests_a_fix() {
        let error = "10.0.0.1/8".parse::<IpNetwork>().unwrap_err().to_string();
        assert!(
            error.contains("write 10.0.0.0/8, or 10.0.0.1 alone"),
            "{error}"
        );
        assert_eq!(
            "10.0.0.1".parse::<IpNetwork>().unwrap().to_string(),
            "10.0.0.1/32"
        );
    }

    #[test]
    fn private_networks_are_neighbors_and_the_internet_is_not() {
        let resolver = ClientAddrResolver::new(TrustedProxies::private_networks());
        for peer in [
            "127.0.0.1",
            "::1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "fd00::1",
        ] {
            assert!(is_neighbor(ip(peer)), "{peer}");
            assert_eq!(client(&resolver, peer, &["203.0.113.9"]), "203.0.113.9");
        }
        for peer in ["172.32.0.1", "192.169.0.1", "2001:db8::1"] {
            assert!(!is_neighbor(ip(peer)), "{peer}");
            assert_eq!(client(&resolver, peer, &["203.0.113.9"]), peer);
        }
    }

    /// A header from a client. Significant characters are more frequent than by chance.
    fn forged_line() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            // All valid characters of a header value, plus those that matter to a parser.
            Just(b'\t'),
            0x20..=0x7e_u8,
            0x80..=0xff_u8,
            prop::sample::select(b"\",;=\\ []:.01f".to_vec()),
        ];
        let piece = prop_oneof![
            vec(byte, 0..8),
            prop::sample::select(vec!["for=10.0.0.9", "10.0.0.9", ", ", "x=\"", "unknown"])
                .prop_map(|piece| piece.as_bytes().to_vec()),
        ];
        vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    fn untrusted_ip() -> impl Strategy<Value = IpAddr> {
        any::<IpAddr>()
            .prop_map(|ip| ip.to_canonical())
            .prop_filter("trusted", |ip| {
                !ip.to_string().starts_with("10.") && !ip.to_string().starts_with("fd")
            })
    }

    fn trusted_ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([10, a, b, c])),
            any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([
                0,
                0,
                0,
                0,
                0,
                0xffff,
                0x0a00 | u16::from(a),
                u16::from_be_bytes([b, c])
            ])),
            any::<u16>().prop_map(|a| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, a])),
        ]
    }

    /// An entry in a proxy's format, with or without a port and brackets.
    fn entry(header: &ForwardedHeader, ip: IpAddr, with_port: bool) -> String {
        let node = match with_port {
            true => SocketAddr::from((ip, 4711)).to_string(),
            false => ip.to_string(),
        };
        match header {
            ForwardedHeader::XForwardedFor => node,
            ForwardedHeader::Single(_) => unreachable!("it is no list"),
            ForwardedHeader::Forwarded => format!("for=\"{node}\";host=\"a,\\\";b\""),
        }
    }

    fn header() -> impl Strategy<Value = ForwardedHeader> {
        prop::sample::select(vec![
            ForwardedHeader::XForwardedFor,
            ForwardedHeader::Forwarded,
        ])
    }

    #[test]
    fn single_address_is_read_from_trusted_peers_alone() {
        let name = HeaderName::from_static("cf-connecting-ip");
        let known = networks(&["10.0.0.0/8"]).forwarded_header(name.clone());
        for (peer, lines, expected) in [
            ("10.0.0.7", &["203.0.113.9"][..], "203.0.113.9"),
            ("10.0.0.7", &[" [2001:db8::1]:443 "], "2001:db8::1"),
            ("10.0.0.7", &["::ffff:203.0.113.9"], "203.0.113.9"),
            // A proxy in front of the trusted one is the client that it names.
            ("10.0.0.7", &["10.0.0.9"], "10.0.0.9"),
            ("10.0.0.7", &[], "10.0.0.7"),
            ("10.0.0.7", &["203.0.113.9, 198.51.100.2"], "10.0.0.7"),
            ("10.0.0.7", &["203.0.113.9", "203.0.113.9"], "10.0.0.7"),
            ("10.0.0.7", &["unknown"], "10.0.0.7"),
            ("198.51.100.2", &["203.0.113.9"], "198.51.100.2"),
        ] {
            assert_eq!(client(&known, peer, lines), expected, "{lines:?}");
        }
        let hops = hop_count(2).forwarded_header(name.clone());
        assert_eq!(
            client(&hops, "198.51.100.2", &["203.0.113.9"]),
            "203.0.113.9"
        );
        let none = ClientAddrResolver::default().forwarded_header(name);
        assert_eq!(
            client(&none, "198.51.100.2", &["203.0.113.9"]),
            "198.51.100.2"
        );
    }

    #[test]
    fn single_address_replaces_the_standard_lists() {
        let known =
            networks(&["10.0.0.0/8"]).forwarded_header(HeaderName::from_static("x-real-ip"));
        let headers = header_lines(&X_FORWARDED_FOR, &["203.0.113.9"]);
        let found = known.resolve(&from_peer(ip("10.0.0.7")), &headers);
        assert_eq!(found.unwrap().to_string(), "10.0.0.7");
    }

    #[test]
    fn names_of_the_standard_lists_select_their_formats() {
        for (name, header) in [
            (X_FORWARDED_FOR.clone(), ForwardedHeader::XForwardedFor),
            (FORWARDED, ForwardedHeader::Forwarded),
        ] {
            assert_eq!(ForwardedHeader::from(name), header);
        }
    }

    #[test]
    fn function_resolves_the_client_or_leaves_the_peer() {
        let resolver = ClientAddrResolver::from_fn(|peer, headers| {
            let sent = headers.get("x-client")?.to_str().ok()?;
            peer.is_loopback().then(|| sent.parse().ok())?
        });
        let name = HeaderName::from_static("x-client");
        let keys = StoreKeys::random().space("function");
        for (peer, sent, expected) in [
            ("127.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
            ("127.0.0.1", "unknown", "127.0.0.1"),
            ("198.51.100.2", "203.0.113.9", "198.51.100.2"),
        ] {
            let headers = header_lines(&name, &[sent]);
            let extensions = from_peer(ip(peer));
            let found = resolver.resolve(&extensions, &headers).unwrap();
            assert_eq!(found.to_string(), expected);
            let key = resolver.store_key(&keys, &extensions, &headers);
            assert_eq!(key, Some(found.store_key(&keys)));
        }
    }

    proptest! {
        /// The client sends an arbitrary header. Each proxy then appends the address of its peer.
        #[test]
        fn a_forged_header_changes_nothing_unless_every_hop_right_of_it_is_trusted(
            header in header(),
            forged in vec(forged_line(), 0..4),
            client in untrusted_ip(),
            proxies in vec((trusted_ip(), any::<bool>(), any::<bool>()), 0..4),
        ) {
            let mut lines = forged;
            let mut caller = client;
            for &(proxy, with_port, own_line) in &proxies {
                let added = entry(&header, caller, with_port);
                match lines.last_mut() {
                    Some(line) if !own_line => line.extend(format!(", {added}").bytes()),
                    _ => lines.push(added.into_bytes()),
                }
                caller = proxy;
            }
            let headers = header_lines(header.name(), &lines);
            let known = networks(&["10.0.0.0/8", "fd00::/8"]);
            for resolver in [known, hop_count(proxies.len())] {
                let resolver = resolver.forwarded_header(header.clone());
                let found = resolver.resolve(&from_peer(caller), &headers).unwrap();
                prop_assert_eq!(found.ip(), client);
            }
        }

        #[test]
        fn no_bytes_of_a_header_panic(
            header in header(),
            lines in vec(forged_line(), 0..4),
            hops in 0_usize..100,
        ) {
            let headers = header_lines(header.name(), &lines);
            for resolver in [networks(&["10.0.0.0/8"]), hop_count(hops)] {
                let resolver = resolver.forwarded_header(header.clone());
                let found = resolver.resolve(&from_peer(ip("10.0.0.7")), &headers);
                prop_assert!(found.is_ok());
            }
        }

        #[test]
        fn no_bytes_panic_in_a_parser(bytes in vec(any::<u8>(), 0..80), text in ".{0,80}") {
            for bytes in [&bytes, text.as_bytes()] {
                let _ = (parse_node(bytes), parse_element(bytes));
            }
            let _ = text.parse::<IpNetwork>();
        }

        #[test]
        fn every_address_that_is_written_is_read_back(ip in any::<IpAddr>(), port: u16) {
            let expected = Some(ip.to_canonical());
            prop_assert_eq!(parse_node(ip.to_string().as_bytes()), expected);
            let with_port = SocketAddr::from((ip, port)).to_string();
            prop_assert_eq!(parse_node(with_port.as_bytes()), expected);
        }
    }
}
