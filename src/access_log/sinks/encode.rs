//! A record as one line of JSON.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    io::Write,
    net::IpAddr,
    ops::Range,
    sync::OnceLock,
    time::Duration,
};

use http::{HeaderName, Method, Version, header::USER_AGENT};

use crate::{
    access_log::{
        emit::level::Level,
        record::{
            record::Record,
            redact::{SHORT_BYTES_MAX, TEXT_BYTES_MAX, capped, hide_keys},
            schema::{
                EVENT_NAME, Field, LOSS_EVENT_NAME, NOTICE_EVENT_NAME, Names, SCHEMA_VERSION,
                START_EVENT_NAME,
            },
        },
    },
    core::{
        audit::AuditEvent,
        json,
        record::{AuthOutcome, FieldValue},
        time::Timestamp,
    },
};

/// A buffer that has grown beyond this is given back after the line.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// What OpenTelemetry calls a method that it does not know.
const OTHER_METHOD: &str = "_OTHER";

impl Record<'_> {
    /// Writes the record as one line of JSON into a buffer that the thread keeps, and shows it.
    ///
    /// The line is one object and ends with a line feed: no other control stands in it.
    pub fn with_json_line<T>(&self, names: Names, show: impl FnOnce(&[u8]) -> T) -> T {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }

        // The buffer is taken out: a sink that is called from within another finds an empty one,
        // and so does a request that is dropped while its thread ends.
        let mut line = LINE.try_with(RefCell::take).unwrap_or_default();
        line.clear();
        push_object(&mut line, self, names);
        line.push(b'\n');
        let shown = show(&line);
        if line.capacity() <= KEPT_BYTES_MAX {
            let _ = LINE.try_with(|kept| kept.replace(line));
        }
        shown
    }

    /// Returns the handler's own fields as a JSON object, if it wrote any.
    pub fn fields_json(&self) -> Option<String> {
        if self.slots().fields().is_empty() {
            return None;
        }
        let mut out = vec![b'{'];
        let names = Names::Otel;
        Object {
            out: &mut out,
            names,
        }
        .fields(self);
        out.push(b'}');
        Some(String::from_utf8(out).expect("JSON is UTF-8"))
    }
}

/// Returns a line, without its line feed, that tells of records that were lost.
pub(super) fn loss(names: Names, at: Timestamp, reason: &str, lost: u64) -> Vec<u8> {
    event(names, at, Level::Warn, LOSS_EVENT_NAME, |object| {
        object.text(Field::ErrorType, reason);
        object.int(Field::Lost, lost);
    })
}

/// Returns the line of a notice, without its line feed.
pub(crate) fn notice(names: Names, at: Timestamp, message: &str) -> Vec<u8> {
    event(names, at, Level::Warn, NOTICE_EVENT_NAME, |object| {
        object.text(Field::AuditMessage, &capped(message, TEXT_BYTES_MAX));
    })
}

/// Returns the line of an audit event, without its line feed.
pub(crate) fn audit(names: Names, at: Timestamp, audited: &AuditEvent) -> Vec<u8> {
    let level = audit_level(audited);
    event(names, at, level, audited.name(), |object| {
        object.audit(audited)
    })
}

fn audit_level(event: &AuditEvent) -> Level {
    match event {
        AuditEvent::KeyCreated { .. }
        | AuditEvent::KeyRotated { .. }
        | AuditEvent::KeyRevoked { .. }
        | AuditEvent::KeyImported { .. }
        | AuditEvent::KeyUpdated { .. }
        | AuditEvent::KeyDisabled { .. }
        | AuditEvent::KeyEnabled { .. }
        | AuditEvent::KeyExpired { .. }
        | AuditEvent::KeysPurged { .. }
        | AuditEvent::LimitExceededInShadow { .. }
        | AuditEvent::StoreUp { .. } => Level::Info,
        AuditEvent::AuthDenied { .. }
        | AuditEvent::KeyLeaked { .. }
        | AuditEvent::BanRaised { .. }
        | AuditEvent::CacheRefreshFailed { .. }
        | AuditEvent::ConfigWarning { .. } => Level::Warn,
        AuditEvent::KeyRecordForged { .. }
        | AuditEvent::StoreDown { .. }
        | AuditEvent::StoreRejected { .. } => Level::Error,
    }
}

/// Returns the line of an event that is no request.
fn event(
    names: Names,
    at: Timestamp,
    level: Level,
    name: &'static str,
    rest: impl FnOnce(&mut Object<'_>),
) -> Vec<u8> {
    let mut out = vec![b'{'];
    let mut object = Object {
        out: &mut out,
        names,
    };
    object.preamble(at, level, name);
    rest(&mut object);
    out.push(b'}');
    out
}

/// Appends a record as a JSON object.
fn push_object(out: &mut Vec<u8>, record: &Record<'_>, names: Names) {
    out.push(b'{');
    let mut object = Object { out, names };
    object.head(record);
    object.request(record);
    object.response(record);
    object.layers(record);
    object.fields(record);
    out.push(b'}');
}

/// A JSON object that is being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    names: Names,
}

impl Object<'_> {
    fn head(&mut self, record: &Record<'_>) {
        self.preamble(record.arrived_at(), record.level(), event_name(record));
        self.plain_bytes(Field::RecordUid, record.uid().as_bytes());
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

    /// Writes what every line begins with.
    fn preamble(&mut self, at: Timestamp, level: Level, name: &'static str) {
        self.name(Field::Timestamp);
        push_rfc3339(self.out, at);
        if name == EVENT_NAME {
            let kind = access_record(self.names, level);
            return self.out.extend_from_slice(kind);
        }
        self.kind(level, name);
    }

    /// Writes what kind of a line it is.
    fn kind(&mut self, level: Level, name: &'static str) {
        self.word(Field::SeverityText, level.as_str());
        self.int(Field::SeverityNumber, level.severity_number());
        self.word(Field::EventName, name);
        self.int(Field::SchemaVersion, SCHEMA_VERSION);
    }

    fn audit(&mut self, event: &AuditEvent) {
        match event {
            AuditEvent::KeyCreated { key_id, by }
            | AuditEvent::KeyImported { key_id, by }
            | AuditEvent::KeyUpdated { key_id, by }
            | AuditEvent::KeyDisabled { key_id, by }
            | AuditEvent::KeyEnabled { key_id, by }
            | AuditEvent::KeyExpired { key_id, by }
            | AuditEvent::KeyLeaked { key_id, by }
            | AuditEvent::KeyRevoked { key_id, by } => {
                self.short_text(Field::AuthKeyId, Some(key_id));
                self.short_text(Field::AuditBy, by.as_deref());
            }
            AuditEvent::KeysPurged { count, by } => {
                self.int(Field::AuditCount, *count);
                self.short_text(Field::AuditBy, by.as_deref());
            }
            AuditEvent::KeyRecordForged { key_id } => {
                self.short_text(Field::AuthKeyId, Some(key_id));
            }
            AuditEvent::KeyRotated {
                key_id,
                successor,
                by,
            } => {
                self.short_text(Field::AuthKeyId, Some(key_id));
                self.short_text(Field::AuditSuccessor, Some(successor));
                self.short_text(Field::AuditBy, by.as_deref());
            }
            AuditEvent::AuthDenied {
                reason,
                key_id,
                client,
                request_id,
            } => {
                let request_id = Some(&**request_id).filter(|name| !name.is_empty());
                self.short_text(Field::RequestId, request_id);
                if let Some(client) = client {
                    let _ = self.addr(Field::ClientAddress, *client);
                }
                self.word(Field::AuthReason, reason.as_str());
                self.short_text(Field::AuthKeyId, key_id.as_deref());
            }
            AuditEvent::BanRaised { subject, policy } => {
                self.short_text(Field::AuditSubject, Some(subject));
                self.short_text(Field::RateLimitPolicy, Some(policy));
            }
            AuditEvent::LimitExceededInShadow { policy, key_id } => {
                self.short_text(Field::RateLimitPolicy, Some(policy));
                self.short_text(Field::AuthKeyId, key_id.as_deref());
            }
            AuditEvent::StoreDown { store, kind } => {
                self.short_text(Field::AuditStore, Some(store));
                self.text(Field::AuditMessage, &kind.to_string());
            }
            AuditEvent::StoreUp { store } => self.short_text(Field::AuditStore, Some(store)),
            AuditEvent::StoreRejected { store, kind, cause } => {
                self.short_text(Field::AuditStore, Some(store));
                self.text(Field::AuditCause, &capped(cause, TEXT_BYTES_MAX));
                self.text(Field::AuditMessage, &kind.to_string());
            }
            AuditEvent::CacheRefreshFailed { cause } => {
                self.short_text(Field::AuditCause, Some(cause));
            }
            AuditEvent::ConfigWarning { message } => {
                self.text(Field::AuditMessage, &capped(message, TEXT_BYTES_MAX));
            }
        }
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
            // Most clients are the peer: what was written is copied.
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
        self.word(Field::Outcome, record.outcome().as_str());
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
        if let Some(auth) = record.slots().auth() {
            self.auth(auth);
        }
        if let Some(user) = record.user() {
            self.short_text(Field::UserId, user.id());
            self.some_text(Field::UserHash, user.hash());
        }
        if let Some((decision, policy)) = record.rate_limit() {
            self.word(Field::RateLimitOutcome, decision.as_str());
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
            self.word(Field::CacheOutcome, cache.source.as_str());
            self.some_text(Field::CacheDetail, cache.detail);
            if let Some(ttl) = cache.ttl_secs {
                self.int(Field::CacheTtl, ttl);
            }
            self.bool(Field::CacheStored, cache.stored);
            self.bool(Field::CacheCollapsed, cache.collapsed);
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
        self.word(Field::AuthOutcome, auth.as_str());
        self.some_text(Field::AuthReason, auth_reason(Some(auth)));
        self.short_text(Field::AuthKeyId, auth_key_id(Some(auth)));
        if let AuthOutcome::Allowed(identity) = auth {
            self.short_text(Field::AuthTier, identity.tier());
        }
    }

    /// Writes the handler's own fields. One that is named like a field of ours stands under
    /// `field.`: no name stands twice in an object.
    fn fields(&mut self, record: &Record<'_>) {
        for (name, value) in record.slots().fields() {
            let name = capped(name, SHORT_BYTES_MAX);
            if self.names.contains(&name) {
                json::push_name(self.out, &format!("field.{name}"));
            } else {
                json::push_name(self.out, &name);
            }
            self.value(value);
        }
        match record.slots().fields_left_out() {
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
            FieldValue::Float(_) => self.out.extend_from_slice(b"null"),
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

    /// Writes headers that were asked for: each name once, with all its values.
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

    /// Writes how long the request took: in seconds, but for ECS, which counts nanoseconds.
    fn duration(&mut self, duration: Duration) {
        match self.names {
            Names::Ecs => self.int(Field::Duration, micros(duration).saturating_mul(1_000)),
            Names::Otel | Names::Short => self.secs(Field::Duration, duration),
        }
    }

    fn text(&mut self, field: Field, text: &str) {
        self.name(field);
        json::push_string(self.out, text);
    }

    fn some_text(&mut self, field: Field, text: Option<&str>) {
        if let Some(text) = text {
            self.text(field, text);
        }
    }

    /// Writes an address, which needs no escape, and returns where it stands.
    fn addr(&mut self, field: Field, addr: IpAddr) -> Range<usize> {
        self.name(field);
        let from = self.out.len();
        self.out.push(b'"');
        push_addr(self.out, addr);
        self.out.push(b'"');
        from..self.out.len()
    }

    fn short_text(&mut self, field: Field, text: Option<&str>) {
        let text = text.map(hide_keys);
        let text = text.as_deref().map(|text| capped(text, SHORT_BYTES_MAX));
        self.some_text(field, text.as_deref());
    }

    fn int(&mut self, field: Field, int: impl itoa::Integer) {
        self.name(field);
        push_int(self.out, int);
    }

    fn bool(&mut self, field: Field, bool: bool) {
        self.name(field);
        push_bool(self.out, bool);
    }

    fn secs(&mut self, field: Field, duration: Duration) {
        self.name(field);
        push_secs(self.out, duration);
    }

    /// Our own names need no escape.
    fn name(&mut self, field: Field) {
        let member = self.names.member(field).as_bytes();
        let first = self.out.last() == Some(&b'{');
        self.out.extend_from_slice(&member[usize::from(first)..]);
    }

    /// Neither do our own words.
    fn word(&mut self, field: Field, word: &'static str) {
        self.plain(field, word);
    }

    /// Writes a text that was found to need no escape.
    fn plain(&mut self, field: Field, word: &str) {
        self.plain_bytes(field, word.as_bytes());
    }

    /// Writes bytes of ASCII that were found to need no escape.
    fn plain_bytes(&mut self, field: Field, word: &[u8]) {
        debug_assert!(
            word.iter()
                .all(|byte| byte.is_ascii_graphic() && *byte != b'"')
        );
        self.name(field);
        self.out.push(b'"');
        self.out.extend_from_slice(word);
        self.out.push(b'"');
    }
}

/// Returns what kind of a line the record of a request of this level is: made once, and copied then.
fn access_record(names: Names, level: Level) -> &'static [u8] {
    static KINDS: [[OnceLock<Vec<u8>>; 4]; 3] = [const { [const { OnceLock::new() }; 4] }; 3];

    KINDS[names as usize][level as usize].get_or_init(|| {
        let mut out = Vec::new();
        let mut object = Object {
            out: &mut out,
            names,
        };
        object.kind(level, EVENT_NAME);
        out
    })
}

/// Returns the event name of a record.
pub(super) fn event_name(record: &Record<'_>) -> &'static str {
    match record.is_start() {
        true => START_EVENT_NAME,
        false => EVENT_NAME,
    }
}

/// Returns why a caller was turned away.
pub(super) fn auth_reason(auth: Option<&AuthOutcome>) -> Option<&'static str> {
    match auth? {
        AuthOutcome::Denied { reason, .. } => Some(reason.as_str()),
        AuthOutcome::Allowed(_) | AuthOutcome::Anonymous | AuthOutcome::StoreFailed(_) => None,
    }
}

/// Returns the public id of the key that was presented.
pub(super) fn auth_key_id(auth: Option<&AuthOutcome>) -> Option<&str> {
    match auth? {
        AuthOutcome::Allowed(identity) => Some(identity.key_id()),
        AuthOutcome::Denied { key_id, .. } => key_id.as_deref(),
        AuthOutcome::Anonymous | AuthOutcome::StoreFailed(_) => None,
    }
}

/// Returns a method of RFC 9110 or RFC 5789 as it is, and the others as one.
pub(crate) fn method(method: &Method) -> &str {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    if known.contains(method) {
        method.as_str()
    } else {
        OTHER_METHOD
    }
}

/// Returns a version as OpenTelemetry writes it: `1.1`, `2`, `3`.
pub(crate) fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_09 => Some("0.9"),
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

/// Appends an address; one of IPv4 without the detour of formatting.
fn push_addr(out: &mut Vec<u8>, addr: IpAddr) {
    match addr {
        IpAddr::V4(addr) => {
            let mut text = [0; 16];
            let mut len = 0;
            for octet in addr.octets() {
                for (least, digit) in [(100, octet / 100), (10, octet / 10 % 10), (0, octet % 10)] {
                    text[len] = b'0' + digit;
                    len += usize::from(octet >= least);
                }
                text[len] = b'.';
                len += 1;
            }
            out.extend_from_slice(&text[..len - 1]);
        }
        IpAddr::V6(addr) => write!(out, "{addr}").expect("a vector takes all that is written"),
    }
}

fn push_int(out: &mut Vec<u8>, int: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(int).as_bytes());
}

fn push_bool(out: &mut Vec<u8>, bool: bool) {
    out.extend_from_slice(if bool { b"true" } else { b"false" });
}

/// Appends a finite number. `Debug` writes the shortest digits that read back the same.
fn push_float(out: &mut Vec<u8>, float: f64) {
    write!(out, "{float:?}").expect("a vector takes all that is written");
}

/// Appends a duration in seconds, to the microsecond, without rounding through a float.
fn push_secs(out: &mut Vec<u8>, duration: Duration) {
    push_int(out, duration.as_secs());
    out.push(b'.');
    push_digits::<6>(out, u64::from(duration.subsec_micros()));
}

/// `"2026-01-01T00:00:00`: a moment by RFC 3339 as far as its second, with the quote before it.
type Second = [u8; 20];

/// Appends a moment by RFC 3339, quotes included: `"2026-01-01T00:00:00.000000Z"`.
fn push_rfc3339(out: &mut Vec<u8>, at: Timestamp) {
    thread_local! {
        /// The second that this thread wrote last: the next record is likely of the same.
        static LAST: Cell<(u64, Second)> = const { Cell::new((0, *b"\"1970-01-01T00:00:00")) };
    }

    let secs = at.as_secs();
    let last = LAST.try_with(Cell::get).ok();
    let text = match last.filter(|(last, _)| *last == secs) {
        Some((_, text)) => text,
        None => {
            let text = second(secs);
            let _ = LAST.try_with(|last| last.set((secs, text)));
            text
        }
    };
    out.extend_from_slice(&text);
    out.push(b'.');
    push_digits::<6>(out, at.as_micros() % 1_000_000);
    out.extend_from_slice(b"Z\"");
}

fn second(secs: u64) -> Second {
    let (year, month, day) = civil(secs / 86_400);
    let mut text = *b"\"0000-00-00T00:00:00";
    let mut put = |at: Range<usize>, mut number: u64| {
        for digit in text[at].iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
        }
    };
    put(1..5, year);
    put(6..8, month);
    put(9..11, day);
    put(12..14, secs / 3_600 % 24);
    put(15..17, secs / 60 % 60);
    put(18..20, secs % 60);
    text
}

/// Returns year, month and day of the day that many days after 1970-01-01.
///
/// Years are counted from the first of March, so that a leap day ends one: then the months before
/// it have the same lengths in each year.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    const DAYS_FROM_0000_03_01: u64 = 719_468;

    let days = days + DAYS_FROM_0000_03_01;
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let leap_days = day_of_era / 1_460 + day_of_era / 146_096 - day_of_era / 36_524;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Appends the last `N` digits of a number, with zeros in front.
fn push_digits<const N: usize>(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits);
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn moments_are_written_by_rfc_3339() {
        let rfc3339 = |micros| written(|out| push_rfc3339(out, Timestamp::from_micros(micros)));
        assert_eq!(rfc3339(0), "\"1970-01-01T00:00:00.000000Z\"");
        assert_eq!(
            rfc3339(951_782_400_000_000),
            "\"2000-02-29T00:00:00.000000Z\""
        );
        assert_eq!(
            rfc3339(1_767_225_599_999_999),
            "\"2025-12-31T23:59:59.999999Z\""
        );
        assert_eq!(
            rfc3339(4_107_542_400_000_000),
            "\"2100-03-01T00:00:00.000000Z\""
        );
    }

    #[test]
    fn each_octet_of_an_address_is_written_as_it_is() {
        for octet in 0..=255 {
            let addr: IpAddr = [octet, 0, 10, 255 - octet].into();
            assert_eq!(written(|out| push_addr(out, addr)), addr.to_string());
        }
        let addr: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(written(|out| push_addr(out, addr)), "2001:db8::1");
    }

    #[test]
    fn seconds_are_written_to_the_microsecond() {
        let secs = |micros| written(|out| push_secs(out, Duration::from_micros(micros)));
        assert_eq!(secs(0), "0.000000");
        assert_eq!(secs(1_000_001), "1.000001");
    }

    proptest! {
        #[test]
        fn each_day_follows_the_one_before(days in 0_u64..1_000_000) {
            let (year, month, day) = civil(days);
            let (next_year, next_month, next_day) = civil(days + 1);
            let same_month = (next_year, next_month, next_day) == (year, month, day + 1);
            let new_month = (next_year, next_month, next_day) == (year, month + 1, 1);
            let new_year = (next_year, next_month, next_day) == (year + 1, 1, 1);
            prop_assert!(same_month || (new_month && day >= 28) || (new_year && (month, day) == (12, 31)));
        }

        #[test]
        fn a_finite_float_is_read_back_the_same(float in any::<f64>()) {
            prop_assume!(float.is_finite());
            let text = written(|out| push_float(out, float));
            prop_assert!(serde_json::from_str::<f64>(&text).is_ok());
            prop_assert_eq!(text.parse::<f64>().unwrap(), float);
        }
    }
}
