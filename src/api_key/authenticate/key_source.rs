//! Locations from which the key of a request is read.

use std::borrow::Cow;

use http::{
    HeaderName,
    header::{AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL},
};

use super::rejection::Named;
use crate::core::error::ConfigError;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A location from which the key of a request is read.
///
/// ```
/// use portcullis::api_key::KeySource;
///
/// let sources = [KeySource::bearer(), KeySource::header("x-acme-key")?];
/// # let _ = sources;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySource {
    pub(super) place: KeyLocation,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyLocation {
    /// The whole value of a header.
    Header(HeaderName),
    /// The credentials after a scheme in `Authorization`.
    Scheme(AuthScheme),
    /// The password of `Authorization: Basic`, or the user name if the password is empty.
    Basic,
    /// The whole value of `Authorization`.
    BareAuthorization,
    /// The item of `Sec-WebSocket-Protocol` with this prefix.
    WebSocketProtocol(String),
    /// The cookie with this name.
    Cookie(String),
    /// The query parameter with this name.
    Query(String),
}

/// The name of an authentication scheme. Comparisons are case-insensitive.
#[derive(Clone, Debug)]
pub(super) struct AuthScheme {
    pub(super) name: Cow<'static, str>,
    /// `true` if the credentials are a `token68` and nothing else.
    pub(super) is_token68: bool,
}

impl PartialEq for AuthScheme {
    fn eq(&self, other: &Self) -> bool {
        self.name.eq_ignore_ascii_case(&other.name)
    }
}

impl Eq for AuthScheme {}

impl AuthScheme {
    const fn known(name: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            is_token68: false,
        }
    }
}

impl KeySource {
    /// Reads the key from the header with this name. The key is the whole value.
    ///
    /// # Errors
    ///
    /// Returns an error if `name` is not a valid header name. Also returns an error for
    /// `authorization`, `cookie` and `sec-websocket-protocol`, whose values contain more than a
    /// key.
    pub fn header(name: &str) -> Result<Self, ConfigError> {
        let refused = |problem: &str, fix: &str| ConfigError::new("header", name, problem).fix(fix);
        let shared = "its value contains more than a key";
        let usual = "use `x-api-key`, or `KeySource::bearer()` for `Authorization: Bearer`";
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(AUTHORIZATION | COOKIE) => Err(refused(shared, usual)),
            Ok(SEC_WEBSOCKET_PROTOCOL) => {
                Err(refused(shared, "use `KeySource::websocket_protocol`"))
            }
            Ok(header) => Ok(Self {
                place: KeyLocation::Header(header),
            }),
            Err(_) => Err(refused("it is not a valid header name", usual)),
        }
    }

    /// Reads the key from the `x-api-key` header.
    pub fn x_api_key() -> Self {
        Self {
            place: KeyLocation::Header(X_API_KEY),
        }
    }

    /// Reads the key from `Authorization: Bearer`.
    pub fn bearer() -> Self {
        Self {
            place: KeyLocation::Scheme(AuthScheme::known("Bearer")),
        }
    }

    /// Reads the key from `Authorization: ApiKey`.
    pub fn api_key_scheme() -> Self {
        Self {
            place: KeyLocation::Scheme(AuthScheme::known("ApiKey")),
        }
    }

    /// Reads the key after a custom scheme in `Authorization`, for example `Authorization: Token
    /// KEY` (RFC 9110 section 11.4).
    ///
    /// The scheme is case-insensitive and must be followed by one or more spaces. The credentials
    /// must be a `token68`: letters, digits, `-`, `.`, `_`, `~`, `+` and `/`, with `=` only at the
    /// end. A request with any other credentials after the scheme, such as `Token key="KEY"`,
    /// receives `401`, like a request with a wrong key. Challenges contain the scheme in the
    /// spelling of `name`.
    ///
    /// For `Bearer` and `ApiKey`, this method returns the same source as [`bearer`](Self::bearer)
    /// and [`api_key_scheme`](Self::api_key_scheme).
    ///
    /// ```
    /// use portcullis::api_key::KeySource;
    ///
    /// let source = KeySource::scheme("Token")?;
    /// assert_eq!(source, KeySource::scheme("token")?);
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if `name` is not a token (RFC 9110 section 5.6.2). Also returns an error
    /// for `Basic`, whose credentials are a user name and a password: use [`basic`](Self::basic)
    /// instead.
    pub fn scheme(name: &str) -> Result<Self, ConfigError> {
        let refused = |problem: &str, fix: &str| {
            Err(ConfigError::new("scheme", name.escape_debug(), problem).fix(fix))
        };
        if !is_token(name) {
            return refused(NO_TOKEN, "use a scheme such as `Token`");
        }
        if name.eq_ignore_ascii_case("Basic") {
            return refused(
                "its credentials are an encoded name and password",
                "use `KeySource::basic()`",
            );
        }
        let scheme = AuthScheme {
            name: Cow::Owned(name.to_owned()),
            is_token68: true,
        };
        let place = KeyLocation::Scheme(scheme);
        let known = [Self::bearer(), Self::api_key_scheme()];
        let known = known.into_iter().find(|known| known.place == place);
        Ok(known.unwrap_or(Self { place }))
    }

    /// Reads the key from `Authorization: Basic`.
    ///
    /// The key is the password. If the password is empty, as in `curl -u KEY:`, the key is the user
    /// name. A browser that receives the `Basic` challenge prompts its user for a password.
    pub fn basic() -> Self {
        Self {
            place: KeyLocation::Basic,
        }
    }

    /// Reads the key from `Authorization` without a scheme: `Authorization: KEY`. The key is the
    /// whole value.
    ///
    /// This source ignores a value that contains a space or a tab, because such a value has a
    /// scheme. It also ignores a value that is only the name of a scheme that another of the
    /// layer's sources reads. For example, if the layer also uses [`bearer`](Self::bearer),
    /// `Authorization: Bearer` is an empty bearer token.
    ///
    /// RFC 9110 requires a scheme, so use this source only for clients that cannot send one. The
    /// challenge is `ApiKey`, as for keys in other headers, because a challenge cannot describe a
    /// value without a scheme.
    pub fn bare_authorization() -> Self {
        Self {
            place: KeyLocation::BareAuthorization,
        }
    }

    /// Reads the key from the item of `Sec-WebSocket-Protocol` that starts with `prefix`. The key
    /// is the rest of the item.
    ///
    /// Use this source for browsers, which cannot set any other header field of a WebSocket
    /// handshake.
    ///
    /// ```
    /// use portcullis::api_key::KeySource;
    ///
    /// let source = KeySource::websocket_protocol("portcullis.key.")?;
    /// # let _ = source;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    ///
    /// The client offers the key together with one of the service's subprotocols:
    ///
    /// ```js
    /// new WebSocket(url, ["acme.v1", "portcullis.key." + key])
    /// ```
    ///
    /// The prefix is case-sensitive. The layer removes the item before it calls the inner service.
    /// If no other item is left, the layer removes the whole field. With
    /// [`forward_credential`](super::super::ApiKeyLayerBuilder::forward_credential), the layer does
    /// not remove the item. The inner service must then not select this item, because the response
    /// would contain the key.
    ///
    /// A browser closes the connection if the server selects none of the offered subprotocols, so a
    /// client must offer another subprotocol in addition to the key. The inner service selects a
    /// subprotocol. By default, the layer does not select one, because a server must not send a
    /// subprotocol to which it has not agreed (RFC 6455 section 4.2.2). For an inner service that
    /// does not support subprotocols, set
    /// [`websocket_subprotocol`](super::super::ApiKeyLayerBuilder::websocket_subprotocol).
    ///
    /// Browsers send only items that are tokens (RFC 9110 section 5.6.2). The keys of a ring are
    /// tokens. Credentials of other kinds can contain characters that are not allowed in a token,
    /// such as `/` and `=`. The challenge is `ApiKey`, as for keys in other headers.
    ///
    /// # Errors
    ///
    /// Returns an error if `prefix` is not a token.
    pub fn websocket_protocol(prefix: &str) -> Result<Self, ConfigError> {
        if !is_token(prefix) {
            let prefix = prefix.escape_debug();
            return Err(ConfigError::new("websocket_protocol", prefix, NO_TOKEN)
                .fix("use a prefix such as `portcullis.key.`"));
        }
        let place = KeyLocation::WebSocketProtocol(prefix.to_owned());
        Ok(Self { place })
    }

    /// Reads the key from the cookie with this name.
    ///
    /// Browsers also send cookies with requests from other sites, so protect the service against
    /// cross-site request forgery.
    ///
    /// # Errors
    ///
    /// Returns an error unless `name` consists of letters, digits, `-`, `_`, `.` and `~`.
    pub fn cookie(name: &str) -> Result<Self, ConfigError> {
        let place = KeyLocation::Cookie(unreserved("cookie", name)?);
        Ok(Self { place })
    }

    /// Reads the key from the query parameter with this name.
    ///
    /// Queries appear in access logs, browser histories and `Referer` headers, so a key in a query
    /// can leak. Use this source only for clients that cannot send the key in another location.
    ///
    /// # Errors
    ///
    /// Returns an error unless `name` consists of letters, digits, `-`, `_`, `.` and `~`.
    pub fn insecure_query_parameter(name: &str) -> Result<Self, ConfigError> {
        let place = KeyLocation::Query(unreserved("query parameter", name)?);
        Ok(Self { place })
    }

    /// Returns the challenge scheme of this source.
    fn challenge_scheme(&self) -> &str {
        match &self.place {
            KeyLocation::Header(_)
            | KeyLocation::BareAuthorization
            | KeyLocation::WebSocketProtocol(_)
            | KeyLocation::Cookie(_)
            | KeyLocation::Query(_) => "ApiKey",
            KeyLocation::Scheme(scheme) => &scheme.name,
            KeyLocation::Basic => "Basic",
        }
    }

    /// Returns the scheme in `Authorization` that this source reads, if it reads one.
    pub(super) fn authorization_scheme(&self) -> Option<&str> {
        match &self.place {
            KeyLocation::Scheme(_) | KeyLocation::Basic => Some(self.challenge_scheme()),
            KeyLocation::Header(_)
            | KeyLocation::BareAuthorization
            | KeyLocation::WebSocketProtocol(_)
            | KeyLocation::Cookie(_)
            | KeyLocation::Query(_) => None,
        }
    }

    /// Returns the prefix of the key in `Sec-WebSocket-Protocol`, if this source reads it.
    pub(super) fn websocket_prefix(&self) -> Option<&str> {
        match &self.place {
            KeyLocation::WebSocketProtocol(prefix) => Some(prefix),
            KeyLocation::Header(_)
            | KeyLocation::Scheme(_)
            | KeyLocation::Basic
            | KeyLocation::BareAuthorization
            | KeyLocation::Cookie(_)
            | KeyLocation::Query(_) => None,
        }
    }

    /// Returns `true` if some request contains a key that both sources find.
    fn overlaps(&self, other: &Self) -> bool {
        match (self.websocket_prefix(), other.websocket_prefix()) {
            (Some(one), Some(other)) => one.starts_with(other) || other.starts_with(one),
            (Some(_) | None, _) => self == other,
        }
    }

    /// Returns the name of a credential from this source, for layers that accept more than API
    /// keys.
    pub(crate) fn names_credential(&self) -> Named {
        match &self.place {
            KeyLocation::Scheme(scheme) if scheme.name == "Bearer" => Named::BearerToken,
            KeyLocation::Scheme(scheme) if scheme.name == "ApiKey" => Named::ApiKey,
            KeyLocation::Header(name) if *name == X_API_KEY => Named::ApiKey,
            KeyLocation::Header(_)
            | KeyLocation::Scheme(_)
            | KeyLocation::Basic
            | KeyLocation::BareAuthorization
            | KeyLocation::WebSocketProtocol(_)
            | KeyLocation::Cookie(_)
            | KeyLocation::Query(_) => Named::Credential,
        }
    }

    /// Returns the header of this source, if it has one, for `Vary`.
    pub(crate) fn header_name(&self) -> Option<&HeaderName> {
        match &self.place {
            KeyLocation::Header(name) => Some(name),
            KeyLocation::Scheme(_) | KeyLocation::Basic | KeyLocation::BareAuthorization => {
                Some(&AUTHORIZATION)
            }
            KeyLocation::WebSocketProtocol(_) => Some(&SEC_WEBSOCKET_PROTOCOL),
            KeyLocation::Cookie(_) => Some(&COOKIE),
            KeyLocation::Query(_) => None,
        }
    }
}

/// Returns an error if there are no sources, or if two of them find the same key.
pub(crate) fn check_sources(sources: &[KeySource]) -> Result<(), ConfigError> {
    if sources.is_empty() {
        return Err(
            ConfigError::new("sources", "empty", "at least one key source is required")
                .fix("add one, for example `KeySource::bearer()`"),
        );
    }
    for (at, source) in sources.iter().enumerate() {
        if sources[..at].iter().any(|other| other.overlaps(source)) {
            return Err(ConfigError::new(
                "sources",
                format_args!("{source:?}"),
                "each source must be listed once: a duplicate makes every key ambiguous",
            )
            .fix("drop the duplicate, or the longer of two prefixes"));
        }
    }
    Ok(())
}

/// Returns the challenge schemes without duplicates. `Bearer` is first: most clients support it.
pub(crate) fn schemes(sources: &[KeySource]) -> Vec<&str> {
    let mut schemes: Vec<&str> = Vec::new();
    for scheme in sources.iter().map(KeySource::challenge_scheme) {
        if !schemes.contains(&scheme) {
            schemes.push(scheme);
        }
    }
    schemes.sort_by_key(|scheme| *scheme != "Bearer");
    schemes
}

/// The error message for a name that is not a token.
pub(super) const NO_TOKEN: &str =
    "a token is one or more of letters, digits and `!#$%&'*+-.^_`|~` (RFC 9110 section 5.6.2)";

/// Returns `true` for a token (RFC 9110 section 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

/// Returns a name of unreserved characters, which has a single spelling.
fn unreserved(option: &'static str, name: &str) -> Result<String, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(ConfigError::new(
            option,
            name.escape_debug(),
            "a name is one or more of letters, digits, `-`, `_`, `.` and `~`",
        )
        .fix("use a name such as `api_key`"));
    }
    Ok(name.to_owned())
}
