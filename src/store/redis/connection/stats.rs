//! Counters of a store, and one notice and one audit event for each change of its state.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::error::ServerRefusal;
use crate::core::{
    audit::{AuditEvent, Auditor},
    error::{StoreError, StoreErrorKind},
    notice::{self, onset::Onset},
    time::Timestamp,
};

/// The name of all nodes of a Cluster together.
pub(crate) const THE_CLUSTER: &str = "the cluster";

/// A server that cannot be used, and why.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    server: Arc<str>,
    kind: StoreErrorKind,
    /// The words of the server or of the operating system.
    cause: Option<Arc<str>>,
    is_cluster: bool,
}

impl Outage {
    /// The outage of a server that failed with this error.
    pub(crate) fn of(server: &impl fmt::Display, error: &StoreError) -> Self {
        Self {
            server: server.to_string().into(),
            kind: error.kind(),
            cause: error.source().map(|cause| cause.to_string().into()),
            is_cluster: false,
        }
    }

    /// The outage of a Cluster whose nodes gave no reason.
    pub(crate) fn of_cluster() -> Self {
        Self::of(&THE_CLUSTER, &StoreErrorKind::Unavailable.into())
    }

    /// The outage of a whole Cluster, of which this node was asked last.
    pub(crate) fn in_cluster(self) -> Self {
        let kind = match self.kind {
            StoreErrorKind::Misconfigured => self.kind,
            StoreErrorKind::Unavailable
            | StoreErrorKind::Timeout
            | StoreErrorKind::Conflict
            | StoreErrorKind::NotFound
            | StoreErrorKind::Corrupt
            | StoreErrorKind::Full => StoreErrorKind::Unavailable,
        };
        let is_cluster = true;
        Self {
            kind,
            is_cluster,
            ..self
        }
    }

    /// Returns the kind of error of a call that is not sent during the outage.
    ///
    /// It is that of the outage; only a timeout becomes [`StoreErrorKind::Unavailable`], as the
    /// effect of a call that was not sent is known.
    pub(crate) fn kind_of_calls(&self) -> StoreErrorKind {
        match self.kind {
            StoreErrorKind::Timeout => StoreErrorKind::Unavailable,
            kind @ (StoreErrorKind::Unavailable
            | StoreErrorKind::Conflict
            | StoreErrorKind::NotFound
            | StoreErrorKind::Corrupt
            | StoreErrorKind::Full
            | StoreErrorKind::Misconfigured) => kind,
        }
    }

    fn is_of(&self, server: &str) -> bool {
        match self.is_cluster {
            true => server == THE_CLUSTER,
            false => server == &*self.server,
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, kind, .. } = self;
        match &self.cause {
            Some(cause) => write!(f, "cannot use {server}: {cause}"),
            None => write!(f, "cannot use {server}: {kind}"),
        }
    }
}

/// A call that was not made because of an outage: it was not sent, so its effect is known.
impl From<Outage> for StoreError {
    fn from(outage: Outage) -> Self {
        Self::with_source(outage.kind_of_calls(), outage.to_string())
    }
}

/// What a [`RedisStore`](crate::store::redis::store::RedisStore) has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisStats {
    /// The number of calls that were put to a server; of decisions that went together, each is one.
    pub calls: u64,
    /// How many of them were not answered in time.
    pub timeouts: u64,
    /// How many of them lost their connection, or were answered by what no server says.
    pub broken: u64,
    /// The number of calls that were not put to a server, as it did not answer or too many were waiting.
    pub refused: u64,
    /// The number of requests that were denied without asking, as the server had denied them before.
    pub local_denials: u64,
    /// How often a connection was made or tried.
    pub connects: u64,
    /// How often a server stopped answering.
    pub downs: u64,
    /// The number of servers that do not answer now.
    pub down: u64,
    /// The number of commands that a server refused with `OOM`: `maxmemory` is reached.
    pub rejected_oom: u64,
    /// The number of commands that a server refused with `NOPERM`: the user lacks a permission.
    pub rejected_noperm: u64,
    /// The number of commands that a server refused with `NOREPLICAS`: too few replicas are connected.
    pub rejected_noreplicas: u64,
    /// The number of commands that a server refused with `MISCONF`: it cannot persist.
    pub rejected_misconf: u64,
    /// The number of commands that a server refused with any other error.
    pub rejected_other: u64,
}

/// Counts, and tells of changes.
#[derive(Debug)]
pub(crate) struct ConnectionWatch {
    name: Arc<str>,
    auditor: Option<Arc<dyn Auditor>>,
    pub(crate) calls: Counter,
    pub(super) timeouts: Counter,
    pub(crate) broken: Counter,
    pub(crate) refused: Counter,
    pub(super) connects: Counter,
    pub(super) local_denials: Counter,
    downs: Counter,
    ups: Counter,
    /// The last outage, until its server is up again.
    outage: Mutex<Option<Outage>>,
    rejections: [Rejections; ServerRefusal::COUNT],
}

/// The commands that servers refused for one cause.
#[derive(Debug, Default)]
struct Rejections {
    count: Counter,
    onset: Onset,
}

/// Counts what happens.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl ConnectionWatch {
    pub(crate) fn new(name: Arc<str>, auditor: Option<Arc<dyn Auditor>>) -> Self {
        Self {
            name,
            auditor,
            calls: Counter::default(),
            timeouts: Counter::default(),
            broken: Counter::default(),
            refused: Counter::default(),
            connects: Counter::default(),
            local_denials: Counter::default(),
            downs: Counter::default(),
            ups: Counter::default(),
            outage: Mutex::default(),
            rejections: Default::default(),
        }
    }

    pub(crate) fn stats(&self) -> RedisStats {
        // The ups first: no more servers seem to have come back than were gone.
        let ups = self.ups.get();
        let downs = self.downs.get();
        let rejected = |refusal| self.rejections_of(refusal).count.get();
        RedisStats {
            calls: self.calls.get(),
            timeouts: self.timeouts.get(),
            broken: self.broken.get(),
            refused: self.refused.get(),
            connects: self.connects.get(),
            local_denials: self.local_denials.get(),
            downs,
            down: downs.saturating_sub(ups),
            rejected_oom: rejected(ServerRefusal::OutOfMemory),
            rejected_noperm: rejected(ServerRefusal::NoPermission),
            rejected_noreplicas: rejected(ServerRefusal::NoReplicas),
            rejected_misconf: rejected(ServerRefusal::CannotPersist),
            rejected_other: rejected(ServerRefusal::Other),
        }
    }

    /// Reports that a server cannot be used any more.
    pub(crate) fn down(&self, outage: Outage) {
        self.downs.add_one();
        let (store, kind) = (&self.name, outage.kind);
        notice::once(&AtomicBool::new(false), || {
            format!("store `{store}`: {outage}")
        });
        self.still_down(outage);
        self.audit(|store| AuditEvent::StoreDown { store, kind });
    }

    /// Notes why a server that was reported cannot be used now.
    pub(crate) fn still_down(&self, outage: Outage) {
        *self.lock_outage() = Some(outage);
    }

    /// Returns the last outage, if its server is still down.
    pub(crate) fn outage(&self) -> Option<Outage> {
        self.lock_outage().clone()
    }

    fn lock_outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rejections_of(&self, refusal: ServerRefusal) -> &Rejections {
        &self.rejections[refusal as usize]
    }

    /// Counts a command that a server refused, and reports the first one of each cause.
    pub(crate) fn rejected(
        &self,
        server: &impl fmt::Display,
        refusal: ServerRefusal,
        error: &StoreError,
        now: Timestamp,
    ) {
        let rejections = self.rejections_of(refusal);
        rejections.count.add_one();
        if !rejections.onset.begins(now) {
            return;
        }
        let kind = error.kind();
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        let store = &self.name;
        notice::once(&AtomicBool::new(false), || {
            format!("store `{store}`: {server} refuses commands: {cause}")
        });
        self.audit(|store| AuditEvent::StoreRejected {
            store,
            kind,
            cause: cause.into(),
        });
    }

    /// Reports that open connections could not authenticate with new credentials.
    pub(super) fn kept_credentials(&self, error: &StoreError) {
        let store = &self.name;
        notice::once(&AtomicBool::new(false), || {
            let cause = error.source().map(ToString::to_string);
            let cause = cause.unwrap_or_else(|| error.to_string());
            format!("store `{store}`: connections keep their previous credentials: {cause}")
        });
    }

    /// Reports that a server can be used again.
    pub(crate) fn up(&self, server: &str) {
        self.ups.add_one();
        self.lock_outage().take_if(|outage| outage.is_of(server));
        let store = &self.name;
        let message = || format!("store `{store}`: {server} answers again");
        notice::once(&AtomicBool::new(false), message);
        self.audit(|store| AuditEvent::StoreUp { store });
    }

    /// Tells that a server that did not answer is no longer asked.
    pub(super) fn forgotten(&self) {
        self.ups.add_one();
    }

    fn audit(&self, event: impl FnOnce(Arc<str>) -> AuditEvent) {
        if let Some(auditor) = &self.auditor {
            auditor.audit(&event(Arc::clone(&self.name)));
        }
    }
}
