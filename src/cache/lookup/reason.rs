//! Why an answer does not come from the store, or does not go into it.

/// Why an answer did not come from the store, or was not kept.
///
/// It stands in the record of the request and in the `detail` of `Cache-Status`. It tells of the
/// configuration and of the handler's own fields, never of another caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheReason {
    /// The method is neither GET nor HEAD.
    Method,
    /// The route's policy says so.
    Off,
    /// The request bears a credential, but nobody says whose it is.
    CredentialWithoutIdentity,
    /// The request has a body.
    RequestBody,
    /// The request asks for another protocol.
    Upgrade,
    /// The request, or the answer, is gRPC.
    Grpc,
    /// The request, or the answer, is a stream of events.
    EventStream,
    /// The request asks for another method than its own.
    MethodOverride,
    /// The request's `Connection` field names a field that is removed before it is forwarded.
    ConnectionOption,
    /// The request's host is missing, stands twice, or contradicts its target.
    Authority,
    /// The answer says that there is no such part as the request asks for.
    Range,
    /// The answer says that a condition of the request, or what it expects, does not hold.
    Condition,
    /// The request's own `Cache-Control` says so.
    RequestDirective,
    /// The request wants the answer made anew, and that was done as often as it may be.
    Reloaded,
    /// The request wants an answer from the store or none, and the store has none.
    OnlyIfCached,
    /// The answer's status is not one that is kept.
    Status,
    /// The answer says `no-store`.
    NoStore,
    /// The answer says `private`, and would go to the shared partition.
    Private,
    /// The request bore a credential, and the answer does not say that it may be shared.
    Credential,
    /// The answer sets a cookie, or does something else to one client alone.
    SetCookie,
    /// The answer varies by what is not in the request.
    VaryStar,
    /// The answer varies by a credential, and would go to the shared partition.
    VaryCredential,
    /// The answer varies by more fields than are looked at.
    VaryTooMany,
    /// The answer still holds, but varies by other fields than before.
    VaryChanged,
    /// The answer does not say how long it stays fresh.
    NoFreshness,
    /// The answer is stale already, and cannot be validated.
    Expired,
    /// The answer is one part of something.
    Partial,
    /// The answer is larger than what is kept.
    TooLarge,
    /// Too much is being stored at this moment.
    Busy,
    /// A purge came while the answer was being made.
    Purged,
    /// The answer was not complete.
    Incomplete,
    /// A newer response came while the body of this one was read.
    Superseded,
    /// The answer ended in trailers.
    Trailers,
    /// The store failed.
    Store,
    /// The origin failed a moment ago. It is asked again after a pause.
    Backoff,
}

impl CacheReason {
    /// Returns the reason's name: a token, as `detail` of `Cache-Status` wants it.
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
