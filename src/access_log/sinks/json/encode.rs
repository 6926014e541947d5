//! Encoding of a record as one JSON line.

use std::{borrow::Cow, cell::RefCell, time::Duration};

use http::{HeaderName, header::USER_AGENT};

use super::{
    object::FixedMembers,
    object::Object,
    value::{push_bool, push_float, push_int},
    words::{
        OTHER_METHOD, auth_case, auth_key_id, auth_reason, decision_case, event_name, method,
        source_case, version,
    },
};
use crate::{
    access_log::record::{
        record::Record,
        redact::{SHORT_BYTES_MAX, TEXT_BYTES_MAX, capped, hide_keys},
        schema::{Field, FieldNaming},
    },
    core::{
        json,
        record::{AuthOutcome, FieldValue},
    },
};

/// A buffer with a larger capacity is freed after the line.
const MAX_IDLE_BYTES: usize = 64 << 10;

// Indexed by the case numbers in `words.rs`.
static AUTH_OUTCOMES: FixedMembers<4> = FixedMembers::new();
static DECISIONS: FixedMembers<7> = FixedMembers::new();
static SOURCES: FixedMembers<6> = FixedMembers::new();
/// By whether the response is stored, and whether the request was collapsed.
static CACHE_FLAGS: FixedMembers<4> = FixedMembers::new();

impl Record<'_> {
    /// Encodes the record as one JSON line into a thread-local buffer and passes it to `show`.
    ///
    /// The line is one JSON object and ends with a line feed. The line contains no other control
    /// character.
    pub fn with_json_line<T>(&self, names: FieldNaming, show: impl FnOnce(&[u8]) -> T) -> T {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }

        // The buffer is taken out: a nested call finds an empty one, and so does a request that is
        // dropped while its thread ends.
        let mut line = LINE.try_with(RefCell::take).unwrap_or_default();
        line.clear();
        push_object(&mut line, self, names);
        line.push(b'\n');
        let shown = show(&line);
        if line.capacity() <= MAX_IDLE_BYTES {
            let _ = LINE.try_with(|kept| kept.replace(line));
        }
        shown
    }

    /// Returns the handler's custom fields as a JSON object, or `None` if the handler set no
    /// fields.
    pub fn fields_json(&self) -> Option<String> {
        if self.data().fields().is_empty() {
            return None;
        }
        let mut out = vec![b'{'];
        let names = FieldNaming::Otel;
        Object {
            out: &mut out,
            names,
        }
        .fields(self);
        out.push(b'}');
        Some(String::from_utf8(out).expect("JSON is UTF-8"))
    }
}

/// Appends a record as a JSON object.
fn push_object(out: &mut Vec<u8>, record: &Record<'_>, names: FieldNaming) {
    out.push(b'{');
    let mut object = Object { out, names };
    object.head(record);
    object.request(record);
    object.response(record);
    object.layers(record);
    object.fields(record);
    out.push(b'}');
}

impl Object<'_> {
    fn head(&mut self, record: &Record<'_>) {
        self.preamble(record.arrived_at(), record.level(), event_name(record));
        self.plain_bytes(Field::RecordUid, record.record_id().as_bytes());
        self.plain_bytes(Field::RequestId, record.request_id().as_bytes());
        self.trace(record);
    }

    fn trace(&mut self, record: &Record<'_>) {
        let own = record.span();
        let Some(ids) = own.or(record.trace()) else {
            return;
        };
        let [trace_id, span_id, flags] = ids.digits();
        self.plain_bytes(Field::TraceId, trace_id);
        if own.is_some() {
            self.plain_bytes(Field::SpanId, span_id);
        }
        if let Some(parent) = record.parent() {
            let [_, parent_id, _] = parent.digits();
            self.plain_bytes(Field::ParentId, parent_id);
        }
        self.plain_bytes(Field::TraceFlags, flags);
    }

    fn request(&mut self, record: &Record<'_>) {
        let known = method(record.method());
        self.plain(Field::Method, known);
        if known == OTHER_METHOD {
            self.text(Field::MethodOriginal, &capped(record.method().as_str(), 32));
        }
        self.some_text(Field::Scheme, record.scheme());
        if let Some((host, port)) = record.server() {
            self.plain(Field::ServerAddress, host);
            if let Some(port) = port {
                self.int(Field::ServerPort, port);
            }
        }
        self.text(Field::Path, &record.path());
        self.query(record);
        self.some_text(Field::Route, record.route());
        if let Some(version) = version(record.version()) {
            self.word(Field::ProtocolVersion, version);
        }
        self.client(record);
        self.headers("http.request.header.", record.request_headers());
    }

    fn client(&mut self, record: &Record<'_>) {
        let client = record.client_addr();
        let mut written = 0..0;
        if let Some(addr) = client {
            written = self.addr(Field::ClientAddress, addr);
        }
        if record.is_client_masked() {
            self.bool(Field::ClientMasked, true);
        }
        match record.peer_addr() {
            // The client is usually the peer: copy the encoded address.
            peer @ Some(_) if peer == client => {
                self.name(Field::PeerAddress);
                self.out.extend_from_within(written);
            }
            Some(peer) => {
                let _ = self.addr(Field::PeerAddress, peer);
            }
            None => {}
        }
        if let Some(port) = record.peer_port() {
            self.int(Field::PeerPort, port);
        }
    }

    fn response(&mut self, record: &Record<'_>) {
        if let Some(status) = record.status() {
            self.int(Field::Status, status.as_u16());
        }
        if let Some(status) = record.grpc_status() {
            self.word(Field::GrpcStatus, status);
        }
        self.word(Field::RequestOutcome, record.outcome().as_str());
        if let Some(error) = record.error_type() {
            self.plain(Field::ErrorType, error);
        }
        if !record.is_start() {
            self.duration(record.duration());
        }
        if let Some(time) = record.time_to_head() {
            self.secs(Field::TimeToHead, time);
        }
        if record.is_slow() {
            self.bool(Field::Slow, true);
        }
        if record.sample_rate() > 1 {
            self.int(Field::SampleRate, record.sample_rate());
        }
        if record.repeat_count() > 1 {
            self.int(Field::RepeatCount, record.repeat_count());
        }
        if let Some(bytes) = record.request_bytes() {
            self.int(Field::RequestBytes, bytes);
        }
        if let Some(bytes) = record.request_bytes_declared() {
            self.int(Field::RequestBytesDeclared, bytes);
        }
        if !record.is_start() {
            self.int(Field::ResponseBytes, record.response_bytes());
        }
        self.headers("http.response.header.", record.response_headers());
    }

    fn layers(&mut self, record: &Record<'_>) {
        if let Some(auth) = record.data().auth() {
            self.auth(auth);
        }
        if let Some(user) = record.user() {
            self.short_text(Field::UserId, user.id());
            self.some_text(Field::UserHash, user.hash());
        }
        if let Some((decision, policy)) = record.rate_limit() {
            DECISIONS.push(self, decision_case(decision), |object| {
                object.word(Field::RateLimitOutcome, decision.as_str());
            });
            if let Some(policy) = policy {
                self.short_text(Field::RateLimitPolicy, Some(&policy.policy));
                self.int(Field::RateLimitLimit, policy.limit);
                self.int(Field::RateLimitRemaining, policy.remaining);
                if let Some(after) = policy.retry_after {
                    self.secs(Field::RateLimitRetryAfter, after);
                }
            }
        }
        let delay = record.rate_limit_delay();
        if !delay.is_zero() {
            self.secs(Field::RateLimitDelay, delay);
        }
        if let Some(cache) = record.cache() {
            SOURCES.push(self, source_case(cache.source), |object| {
                object.word(Field::CacheOutcome, cache.source.as_str());
            });
            self.some_text(Field::CacheDetail, cache.detail);
            if let Some(ttl) = cache.ttl_secs {
                self.int(Field::CacheTtl, ttl);
            }
            let case = usize::from(cache.stored) << 1 | usize::from(cache.collapsed);
            CACHE_FLAGS.push(self, case, |object| {
                object.bool(Field::CacheStored, cache.stored);
                object.bool(Field::CacheCollapsed, cache.collapsed);
            });
            if let Some(waited) = cache.waited {
                self.secs(Field::CacheWaited, waited);
            }
            if let Some(hash) = record.cache_key_hash() {
                self.plain(Field::CacheKeyHash, &hash);
            }
        }
        if let Some(waited) = record.store_duration() {
            self.secs(Field::StoreDuration, waited);
        }
        match record.store_errors() {
            0 => {}
            errors => self.int(Field::StoreErrors, errors),
        }
    }

    fn auth(&mut self, auth: &AuthOutcome) {
        AUTH_OUTCOMES.push(self, auth_case(auth), |object| {
            object.word(Field::AuthOutcome, auth.as_str());
        });
        self.some_text(Field::AuthReason, auth_reason(Some(auth)));
        self.short_text(Field::AuthKeyId, auth_key_id(Some(auth)));
        if let AuthOutcome::Allowed(identity) = auth {
            self.short_text(Field::AuthTier, identity.tier());
        }
    }

    /// Writes the handler's custom fields. A name that equals a built-in field is prefixed with
    /// `field.`, so that names in the object are unique.
    fn fields(&mut self, record: &Record<'_>) {
        for (name, value) in record.data().fields() {
            let name = capped(name, SHORT_BYTES_MAX);
            if self.names.contains(&name) {
                json::push_name(self.out, &format!("field.{name}"));
            } else {
                json::push_name(self.out, &name);
            }
            self.value(value);
        }
        match record.data().fields_left_out() {
            0 => {}
            left_out => self.int(Field::FieldsLeftOut, left_out),
        }
    }

    fn value(&mut self, value: &FieldValue) {
        match value {
            FieldValue::Text(text) => {
                json::push_string(self.out, &capped(&hide_keys(text), TEXT_BYTES_MAX));
            }
            FieldValue::Int(int) => push_int(self.out, *int),
            FieldValue::Float(float) if float.is_finite() => push_float(self.out, *float),
            FieldValue::Float(_) | FieldValue::Null => self.out.extend_from_slice(b"null"),
            FieldValue::Bool(bool) => push_bool(self.out, *bool),
        }
    }

    fn query(&mut self, record: &Record<'_>) {
        let mut begun = false;
        record.with_query(|piece| {
            if !begun {
                self.name(Field::Query);
                self.out.push(b'"');
                begun = true;
            }
            json::push_escaped(self.out, piece);
        });
        if begun {
            self.out.push(b'"');
        }
    }

    /// Writes the recorded headers: each name once, with all its values.
    fn headers<'r>(
        &mut self,
        prefix: &str,
        headers: impl Iterator<Item = (&'r HeaderName, Cow<'r, str>)>,
    ) {
        let mut headers = headers.peekable();
        while let Some((name, value)) = headers.next() {
            if *name == USER_AGENT {
                self.text(Field::UserAgent, &value);
                while headers.next_if(|(next, _)| *next == name).is_some() {}
                continue;
            }
            json::push_name(self.out, &format!("{prefix}{}", capped(name.as_str(), 64)));
            self.out.push(b'[');
            json::push_string(self.out, &value);
            while let Some((_, value)) = headers.next_if(|(next, _)| *next == name) {
                json::push_comma(self.out);
                json::push_string(self.out, &value);
            }
            self.out.push(b']');
        }
    }

    /// Writes the duration of the request: in seconds, or in nanoseconds for ECS.
    fn duration(&mut self, duration: Duration) {
        match self.names {
            FieldNaming::Ecs => self.int(Field::Duration, micros(duration).saturating_mul(1_000)),
            FieldNaming::Otel | FieldNaming::Short => self.secs(Field::Duration, duration),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
