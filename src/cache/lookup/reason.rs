//! The reasons for a response that was not served from the store, or was not stored.

/// The reason that a response was not served from the store, or was not stored.
///
/// The reason is part of the request's record and is sent as the `detail` parameter of
/// `Cache-Status`. A reason reveals the configuration and the fields of the handler's response, but
/// never other callers' requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheReason {
    /// The method is neither GET nor HEAD.
    Method,
    /// The route's policy turns the cache off.
    Off,
    /// The request has a credential, but no middleware has identified its caller.
    CredentialWithoutIdentity,
    /// The request has a body.
    RequestBody,
    /// The request is an upgrade to another protocol.
    Upgrade,
    /// The request or the response uses gRPC.
    Grpc,
    /// The request or the response is a stream of server-sent events.
    EventStream,
    /// The request has a field that overrides its method.
    MethodOverride,
    /// The request's `Connection` field lists a field that is removed before the request is
    /// forwarded.
    ConnectionOption,
    /// The request's host is missing, occurs twice, or contradicts its target.
    Authority,
    /// The response is `416 Range Not Satisfiable`.
    Range,
    /// A precondition or an `Expect` field of the request failed.
    Condition,
    /// A `Cache-Control` directive in the request prevents serving or storing the response.
    RequestDirective,
    /// The client requested a newer response, but the reload limit is reached.
    Reloaded,
    /// The request has `only-if-cached`, and no usable response is stored.
    OnlyIfCached,
    /// The response's status is not cacheable.
    Status,
    /// The response has `no-store`.
    NoStore,
    /// The response has `private`, and would be stored in the shared partition.
    Private,
    /// The request has a credential, and the response does not allow sharing.
    Credential,
    /// The response sets a cookie, or has another effect on one client alone.
    SetCookie,
    /// The response has `Vary: *`.
    VaryStar,
    /// The response varies by a credential, and would be stored in the shared partition.
    VaryCredential,
    /// The response varies by more fields than the maximum.
    VaryTooMany,
    /// The stored response was validated, but now varies by other fields.
    VaryChanged,
    /// The response has no freshness lifetime.
    NoFreshness,
    /// The response is already stale, and has no validator.
    Expired,
    /// The response is partial content.
    Partial,
    /// The response is larger than the maximum.
    TooLarge,
    /// The budget for concurrent stores is used up.
    Busy,
    /// The response was purged while it was being generated.
    Purged,
    /// The response was incomplete.
    Incomplete,
    /// A newer response arrived while the body of this response was being read.
    Superseded,
    /// The response has trailers.
    Trailers,
    /// The store failed.
    Store,
    /// The origin failed recently, and is called again after a pause.
    Backoff,
}

impl CacheReason {
    /// Returns the name of the reason, which is the value of `detail` in `Cache-Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Off => "off",
            Self::CredentialWithoutIdentity => "credential-without-identity",
            Self::RequestBody => "request-body",
            Self::Upgrade => "upgrade",
            Self::Grpc => "grpc",
            Self::EventStream => "event-stream",
            Self::MethodOverride => "method-override",
            Self::ConnectionOption => "connection-option",
            Self::Authority => "authority",
            Self::Range => "range",
            Self::Condition => "condition",
            Self::RequestDirective => "request-directive",
            Self::Reloaded => "reloaded",
            Self::OnlyIfCached => "only-if-cached",
            Self::Status => "status",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Credential => "credential",
            Self::SetCookie => "set-cookie",
            Self::VaryStar => "vary-star",
            Self::VaryCredential => "vary-credential",
            Self::VaryTooMany => "vary-too-many",
            Self::VaryChanged => "vary-changed",
            Self::NoFreshness => "no-freshness",
            Self::Expired => "expired",
            Self::Partial => "partial",
            Self::TooLarge => "too-large",
            Self::Busy => "busy",
            Self::Purged => "purged",
            Self::Incomplete => "incomplete",
            Self::Superseded => "superseded",
            Self::Trailers => "trailers",
            Self::Store => "store",
            Self::Backoff => "backoff",
        }
    }
}
