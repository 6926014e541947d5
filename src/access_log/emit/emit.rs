//! Emission of records: levels, sampling, aggregation, and delivery to the sinks.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    ops::Add,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use http::Method;

use super::{drop_counts::DropCounts, fold::Folds, level::LogLevel, sample};
use crate::{
    access_log::{
        config::AccessLogConfig,
        record::{
            record::{Arrival, Departure, Record, RequestOutcome},
            request_id,
        },
        sinks::{scope::Scope, sink::Sink},
    },
    core::{
        audit::AuditEvent,
        layer_order::{LayerKind, Placement},
        record::{AuthOutcome, KeptRecord, RecordData},
        time::Timestamp,
    },
};

/// The value of `next_due` if no aggregated denial is pending.
const NEVER: u64 = u64::MAX;

/// An ended request.
pub(crate) struct Ended {
    /// The level, once it is determined.
    pub(crate) level: LogLevel,
    pub(crate) record: KeptRecord<Arrival>,
    pub(crate) departure: Departure,
    pub(crate) slots: RecordData,
}

impl Ended {
    fn arrival(&self) -> &Arrival {
        self.record.beside()
    }
}

/// Emits the records of ended requests to the sinks.
pub(crate) struct Emitter {
    pub(crate) config: AccessLogConfig,
    pub(crate) placement: Placement,
    folding: Option<Folding>,
    /// The number of losses that was last reported to the observers.
    losses_told: AtomicU64,
}

struct Folding {
    folds: Mutex<Folds<Ended>>,
    /// The end of the next window in microseconds, which each request reads without the lock.
    next_due: AtomicU64,
    kinds: RandomState,
}

impl Emitter {
    pub(crate) fn new(config: AccessLogConfig) -> Self {
        let folding = config.fold_window.map(|window| Folding {
            folds: Mutex::new(Folds::new(window)),
            next_due: AtomicU64::new(NEVER),
            kinds: RandomState::new(),
        });
        Self {
            config,
            placement: Placement::new(LayerKind::AccessLog, false),
            folding,
            losses_told: AtomicU64::new(NEVER),
        }
    }

    /// Returns `true` if any sink accepts any level, or an observer or scope is set. Otherwise, no
    /// record is created.
    pub(crate) fn is_wanted(&self) -> bool {
        if !self.config.observers.is_empty() || self.config.scopes.is_some() {
            return true;
        }
        let min = self.config.min_level;
        let emitted = || LogLevel::ALL.into_iter().filter(|level| *level >= min);
        let taken = |sink: &Arc<dyn Sink>| emitted().any(|level| sink.is_enabled(level));
        // If `is_enabled` panics, it is called again with the record.
        catch_unwind(AssertUnwindSafe(|| self.config.sinks.iter().any(taken))).unwrap_or(true)
    }

    /// Opens the scope of a request, if scopes are configured.
    pub(crate) fn scope(&self, arrival: &Arrival) -> Option<Box<dyn Scope>> {
        let scopes = self.config.scopes.as_ref()?;
        let record = Record {
            arrival,
            departure: &Departure::default(),
            slots: &RecordData::default(),
            redaction: &self.config.redaction,
            level: LogLevel::Info,
            is_slow: false,
            sample_rate: 1,
            repeat_count: 1,
            start_uid: None,
        };
        catch_unwind(AssertUnwindSafe(|| scopes.open(&record))).ok()
    }

    /// Ends the scope of a request with its record.
    pub(crate) fn end_scope(&self, scope: &dyn Scope, ended: &Ended) {
        self.guarded(|| scope.end(&self.leveled(ended, 1)));
    }

    /// Reports an arrival to the observers.
    pub(crate) fn on_request(&self, method: &Method) {
        for observer in &self.config.observers {
            self.guarded(|| observer.on_request(method));
        }
    }

    /// Emits a start record. The same digest selects both records, so if the start record is
    /// written, the record at the end is written too.
    pub(crate) fn emit_start(&self, arrival: &Arrival, departure: &Departure, slots: &RecordData) {
        let uid = request_id::generate(arrival.at);
        let mut record = Record {
            arrival,
            departure,
            slots,
            redaction: &self.config.redaction,
            level: LogLevel::Info,
            is_slow: false,
            sample_rate: 1,
            repeat_count: 1,
            start_uid: Some(&uid),
        };
        record.level = self.level_of(&mut record);
        record.sample_rate = self.sample_rate(&record);
        if record.level < self.config.min_level || self.is_sampled_out(&record) {
            return;
        }
        match self.hand_out(&record) {
            Handed::Panicked => self.config.stats.count_failed(),
            Handed::Over => self.config.stats.count_started(),
        }
    }

    /// Emits the record of a request. If a sink panics, the panic is caught and the record is lost.
    /// An uncaught second panic during unwinding would abort the process.
    pub(crate) fn emit(&self, mut ended: Ended, now: Timestamp) {
        ended.level = self.level(&ended);
        self.config.check_addr(ended.arrival());
        self.config.audit.emit_if(|| self.denied(&ended));
        for observer in &self.config.observers {
            self.guarded(|| observer.on_record(&self.leveled(&ended, 1)));
        }
        match &self.folding {
            Some(folding) => self.guarded(|| self.fold(folding, ended, now)),
            None => self.guarded(|| self.write(&ended, 1)),
        }
        if !self.config.observers.is_empty() {
            self.guarded(|| self.report_losses());
        }
    }

    /// Reports the losses to the observers if they have changed.
    fn report_losses(&self) {
        let sinks = self.config.sinks.iter().map(|sink| sink.drop_counts());
        let mut records = sinks.fold(DropCounts::default(), DropCounts::add);
        records.panicked += self.config.stats.failed();
        let audit_events = self.config.audit.lost();
        let all = records.total() + audit_events;
        if self.losses_told.swap(all, Ordering::Relaxed) != all {
            for observer in &self.config.observers {
                observer.on_drop(&records, audit_events);
            }
        }
    }

    /// Returns the audit event of a request that authentication rejected.
    fn denied(&self, ended: &Ended) -> Option<AuditEvent> {
        match ended.slots.auth()? {
            AuthOutcome::Denied { reason, key_id } => Some(AuditEvent::AuthDenied {
                reason: *reason,
                key_id: key_id.clone(),
                client: ended.arrival().client_shown(),
                request_id: ended.arrival().request_id.as_str().into(),
            }),
            AuthOutcome::Allowed(_) | AuthOutcome::Anonymous | AuthOutcome::StoreFailed(_) => None,
        }
    }

    fn guarded(&self, run: impl FnOnce()) {
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(()) => {}
            Err(_) => self.config.stats.count_failed(),
        }
    }

    fn fold(&self, folding: &Folding, ended: Ended, now: Timestamp) {
        while let Some((folded, count)) = folding.take_due(now) {
            self.write(&folded, count);
        }
        let kind = self
            .record(&ended, 1)
            .and_then(|record| folding.kind(&record));
        let shown = match kind {
            Some(kind) => folding.offer(kind, ended, now),
            None => Some(ended),
        };
        match shown {
            Some(ended) => self.write(&ended, 1),
            None => self.config.stats.count_folded(),
        }
    }

    /// Writes a record that represents `count` requests.
    fn write(&self, ended: &Ended, count: u64) {
        let Some(record) = self.record(ended, count) else {
            return;
        };
        if self.is_sampled_out(&record) {
            return self.config.stats.count_sampled_out();
        }
        match self.hand_out(&record) {
            Handed::Panicked => self.config.stats.count_failed(),
            Handed::Over => self.config.stats.count_emitted(),
        }
    }

    fn is_sampled_out(&self, record: &Record<'_>) -> bool {
        record.sample_rate > 1 && !sample::keeps(record.request_id().as_str(), self.config.one_in)
    }

    /// Writes a record to each sink that accepts its level. A panic in one sink does not affect the
    /// other sinks.
    fn hand_out(&self, record: &Record<'_>) -> Handed {
        let mut handed = Handed::Over;
        for sink in &self.config.sinks {
            let written = catch_unwind(AssertUnwindSafe(|| {
                if sink.is_enabled(record.level) {
                    sink.write(record);
                }
            }));
            if written.is_err() {
                handed = Handed::Panicked;
            }
        }
        handed
    }

    /// Returns the record if it has at least the minimum level.
    fn record<'a>(&'a self, ended: &'a Ended, count: u64) -> Option<Record<'a>> {
        let record = self.leveled(ended, count);
        (record.level >= self.config.min_level).then_some(record)
    }

    fn level(&self, ended: &Ended) -> LogLevel {
        self.level_of(&mut self.leveled(ended, 1))
    }

    /// Returns the level of a record, or the default level if the level function panics.
    fn level_of(&self, record: &mut Record<'_>) -> LogLevel {
        record.level = record.default_level();
        let Some(level) = &self.config.level else {
            return record.level;
        };
        catch_unwind(AssertUnwindSafe(|| level(record))).unwrap_or_else(|_| {
            self.config.stats.count_failed();
            record.level
        })
    }

    /// Returns the record with its determined level.
    fn leveled<'a>(&'a self, ended: &'a Ended, count: u64) -> Record<'a> {
        let config = &self.config;
        let slow = config.slow_after;
        let mut record = Record {
            arrival: ended.arrival(),
            departure: &ended.departure,
            slots: &ended.slots,
            redaction: &config.redaction,
            level: ended.level,
            is_slow: slow.is_some_and(|slow| ended.departure.duration >= slow),
            sample_rate: 1,
            repeat_count: count,
            start_uid: None,
        };
        record.sample_rate = self.sample_rate(&record);
        record
    }

    /// Returns the number of requests that the record represents if it is written.
    fn sample_rate(&self, record: &Record<'_>) -> u32 {
        match self.config.one_in.get() {
            one_in if one_in > 1 && is_routine(record) => one_in,
            _ => 1,
        }
    }
}

impl Drop for Emitter {
    /// Writes pending aggregated denials, because no later request can write them.
    fn drop(&mut self) {
        let Some(folding) = self.folding.take() else {
            return;
        };
        let mut folds = folding
            .folds
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        while let Some((folded, count)) = folds.take_any() {
            self.guarded(|| self.write(&folded, count));
        }
    }
}

impl Folding {
    /// Returns the kind of a denied request. Requests with the same caller or client, route and
    /// reason have the same kind.
    fn kind(&self, record: &Record<'_>) -> Option<u64> {
        if !record.is_denied() {
            return None;
        }
        let mut hasher = self.kinds.build_hasher();
        let mut field = |text: &str| {
            hasher.write(text.as_bytes());
            hasher.write_u8(0xff);
        };
        field(record.route().unwrap_or_default());
        field(
            record
                .status()
                .map_or("", |status| status.canonical_reason().unwrap_or_default()),
        );
        match record.slots.auth() {
            Some(AuthOutcome::Denied { reason, key_id }) => {
                field(reason.as_str());
                field(key_id.as_deref().unwrap_or_default());
            }
            Some(AuthOutcome::Allowed(identity)) => field(identity.key_id()),
            Some(AuthOutcome::Anonymous | AuthOutcome::StoreFailed(_)) | None => {}
        }
        if let Some((decision, policy)) = record.rate_limit() {
            field(decision.as_str());
            field(policy.map_or("", |policy| &policy.policy));
        }
        if let Some(client) = record.client_addr() {
            field(&client.to_string());
        }
        Some(hasher.finish())
    }

    fn offer(&self, kind: u64, ended: Ended, now: Timestamp) -> Option<Ended> {
        let mut folds = self.folds();
        let shown = folds.offer(kind, ended, now);
        self.note_due(&folds);
        shown
    }

    fn take_due(&self, now: Timestamp) -> Option<(Ended, u64)> {
        if self.next_due.load(Ordering::Relaxed) > now.as_micros() {
            return None;
        }
        let mut folds = self.folds();
        let due = folds.take_due(now);
        self.note_due(&folds);
        due
    }

    fn note_due(&self, folds: &Folds<Ended>) {
        let next = folds.next_due().map_or(NEVER, Timestamp::as_micros);
        self.next_due.store(next, Ordering::Relaxed);
    }

    fn folds(&self) -> MutexGuard<'_, Folds<Ended>> {
        self.folds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of writing a record to all sinks.
enum Handed {
    Over,
    Panicked,
}

/// Returns `true` if a request is routine. Only routine requests are sampled.
fn is_routine(record: &Record<'_>) -> bool {
    let failed = match record.outcome() {
        RequestOutcome::Running | RequestOutcome::Completed => record.is_server_error(),
        RequestOutcome::Dropped
        | RequestOutcome::BodyDropped
        | RequestOutcome::BodyError
        | RequestOutcome::Panicked
        | RequestOutcome::Failed => true,
    };
    !failed && !record.is_slow && !record.is_denied() && record.level < LogLevel::Warn
}
