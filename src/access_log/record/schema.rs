//! The names of record fields.

/// The version of the record schema. Each record contains it.
///
/// The version increases when the name, type or meaning of a field changes. A new field does not
/// increase the version. In version 2, the caller's span is `parent_id`. In version 1, the caller's
/// span was `span_id`.
pub const SCHEMA_VERSION: u32 = 2;

/// The event name of a request record.
pub(crate) const EVENT_NAME: &str = "http.server.request";

/// The event name of a start record.
pub(crate) const START_EVENT_NAME: &str = "http.server.request.start";

/// The event name of a loss report.
pub(crate) const LOSS_EVENT_NAME: &str = "portcullis.log.lost";

/// The event name of a notice.
pub(crate) const NOTICE_EVENT_NAME: &str = "portcullis.notice";

/// The naming convention of record fields.
///
/// OpenTelemetry and ECS define no names for the fields that this crate adds. The names of these
/// fields therefore start with `portcullis.` in all conventions except [`Short`](Self::Short).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldNaming {
    /// OpenTelemetry semantic conventions, with their stable names where they exist.
    #[default]
    Otel,
    /// Elastic Common Schema.
    Ecs,
    /// Short names, for human readers and smaller logs.
    Short,
}

impl FieldNaming {
    /// Returns the start of a JSON object member with this field: `,"name":`.
    #[inline]
    pub(crate) fn member(self, field: Field) -> &'static str {
        let text_member = self.text_member(field);
        &text_member[..text_member.len() - 1]
    }

    /// Returns the start of a JSON object member with this field and a string value: `,"name":"`.
    #[inline]
    pub(crate) fn text_member(self, field: Field) -> &'static str {
        Field::TEXT_MEMBERS[field as usize][self as usize]
    }

    /// Returns a field's name.
    pub(crate) fn of(self, field: Field) -> &'static str {
        let member = self.member(field);
        &member[2..member.len() - 2]
    }

    /// Returns `true` if a built-in field has this name.
    pub(crate) fn contains(self, name: &str) -> bool {
        Field::ALL.iter().any(|field| self.of(*field) == name)
    }
}

macro_rules! fields {
    ($($field:ident: $otel:literal, $ecs:literal, $short:literal;)+) => {
        /// The fields of a record, in output order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Field {
            $($field,)+
        }

        impl Field {
            /// All fields.
            const ALL: &[Self] = &[$(Self::$field,)+];

            /// The starts of all members with a string value, in each naming convention.
            const TEXT_MEMBERS: &[[&'static str; 3]; Self::ALL.len()] = &[
                $([
                    concat!(",\"", $otel, "\":\""),
                    concat!(",\"", $ecs, "\":\""),
                    concat!(",\"", $short, "\":\""),
                ],)+
            ];
        }
    };
}

// Field: OpenTelemetry name, ECS name, short name.
fields! {
    Timestamp: "timestamp", "@timestamp", "ts";
    SeverityText: "severity_text", "log.level", "level";
    SeverityNumber: "severity_number", "event.severity", "severity";
    EventName: "event.name", "event.action", "event";
    SchemaVersion: "portcullis.schema.version", "portcullis.schema.version", "v";
    RecordUid: "log.record.uid", "event.id", "uid";
    RequestId: "portcullis.request.id", "http.request.id", "id";
    TraceId: "trace_id", "trace.id", "trace_id";
    SpanId: "span_id", "span.id", "span_id";
    ParentId: "parent_id", "parent.id", "parent_id";
    TraceFlags: "trace_flags", "portcullis.trace.flags", "trace_flags";
    Method: "http.request.method", "http.request.method", "method";
    MethodOriginal: "http.request.method_original", "portcullis.request.method_original", "method_original";
    Scheme: "url.scheme", "url.scheme", "scheme";
    Path: "url.path", "url.path", "path";
    Query: "url.query", "url.query", "query";
    Route: "http.route", "portcullis.route", "route";
    ServerAddress: "server.address", "server.address", "host";
    ServerPort: "server.port", "server.port", "port";
    ProtocolVersion: "network.protocol.version", "http.version", "version";
    ClientAddress: "client.address", "client.ip", "client";
    ClientMasked: "portcullis.client.masked", "portcullis.client.masked", "client_masked";
    PeerAddress: "network.peer.address", "source.ip", "peer";
    PeerPort: "network.peer.port", "source.port", "peer_port";
    UserAgent: "user_agent.original", "user_agent.original", "agent";
    Status: "http.response.status_code", "http.response.status_code", "status";
    GrpcStatus: "rpc.response.status_code", "portcullis.grpc.status", "grpc";
    RequestOutcome: "portcullis.outcome", "portcullis.outcome", "outcome";
    ErrorType: "error.type", "error.type", "error";
    Duration: "http.server.request.duration", "event.duration", "dur";
    TimeToHead: "portcullis.response.ttfb", "portcullis.response.ttfb", "ttfb";
    Slow: "portcullis.slow", "portcullis.slow", "slow";
    SampleRate: "portcullis.sample_rate", "portcullis.sample_rate", "sample_rate";
    RepeatCount: "portcullis.repeat_count", "portcullis.repeat_count", "repeats";
    RequestBytes: "http.request.body.size", "http.request.body.bytes", "in";
    RequestBytesDeclared: "portcullis.request.body.declared", "portcullis.request.body.declared", "in_declared";
    ResponseBytes: "http.response.body.size", "http.response.body.bytes", "out";
    AuthOutcome: "portcullis.auth.outcome", "portcullis.auth.outcome", "auth";
    AuthReason: "portcullis.auth.reason", "portcullis.auth.reason", "auth_reason";
    AuthKeyId: "portcullis.auth.key_id", "portcullis.auth.key_id", "key_id";
    AuthTier: "portcullis.auth.tier", "portcullis.auth.tier", "tier";
    UserId: "user.id", "user.id", "user";
    UserHash: "user.hash", "user.hash", "user_hash";
    RateLimitOutcome: "portcullis.rate_limit.outcome", "portcullis.rate_limit.outcome", "limit";
    RateLimitPolicy: "portcullis.rate_limit.policy", "portcullis.rate_limit.policy", "limit_policy";
    RateLimitLimit: "portcullis.rate_limit.limit", "portcullis.rate_limit.limit", "limit_quota";
    RateLimitRemaining: "portcullis.rate_limit.remaining", "portcullis.rate_limit.remaining", "limit_left";
    RateLimitRetryAfter: "portcullis.rate_limit.retry_after", "portcullis.rate_limit.retry_after", "limit_retry";
    RateLimitDelay: "portcullis.rate_limit.delay", "portcullis.rate_limit.delay", "limit_delay";
    CacheOutcome: "portcullis.cache.outcome", "portcullis.cache.outcome", "cache";
    CacheDetail: "portcullis.cache.detail", "portcullis.cache.detail", "cache_detail";
    CacheTtl: "portcullis.cache.ttl", "portcullis.cache.ttl", "cache_ttl";
    CacheStored: "portcullis.cache.stored", "portcullis.cache.stored", "cache_stored";
    CacheCollapsed: "portcullis.cache.collapsed", "portcullis.cache.collapsed", "cache_collapsed";
    CacheWaited: "portcullis.cache.waited", "portcullis.cache.waited", "cache_waited";
    CacheKeyHash: "portcullis.cache.key_hash", "portcullis.cache.key_hash", "cache_key";
    StoreDuration: "portcullis.store.duration", "portcullis.store.duration", "store_dur";
    StoreErrors: "portcullis.store.errors", "portcullis.store.errors", "store_errors";
    AuditBy: "portcullis.audit.by", "portcullis.audit.by", "by";
    AuditSubject: "portcullis.audit.subject", "portcullis.audit.subject", "subject";
    AuditSuccessor: "portcullis.audit.successor", "portcullis.audit.successor", "successor";
    AuditStore: "portcullis.audit.store", "portcullis.audit.store", "store";
    AuditCount: "portcullis.audit.count", "portcullis.audit.count", "count";
    AuditCause: "portcullis.audit.cause", "portcullis.audit.cause", "cause";
    AuditMessage: "portcullis.audit.message", "message", "message";
    Lost: "portcullis.log.lost", "portcullis.log.lost", "lost";
    FieldsLeftOut: "portcullis.fields_left_out", "portcullis.fields_left_out", "fields_left_out";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_name_stands_for_two_fields() {
        for names in [FieldNaming::Otel, FieldNaming::Ecs, FieldNaming::Short] {
            let distinct: HashSet<_> = Field::ALL.iter().map(|field| names.of(*field)).collect();
            assert_eq!(distinct.len(), Field::ALL.len(), "{names:?}");
        }
    }

    #[test]
    fn names_need_no_escape_in_json() {
        let plain = |byte: u8| byte.is_ascii_lowercase() || b"@._0123456789".contains(&byte);
        for field in Field::ALL {
            for names in [FieldNaming::Otel, FieldNaming::Ecs, FieldNaming::Short] {
                assert!(names.of(*field).bytes().all(plain), "{field:?}");
            }
        }
    }
}
