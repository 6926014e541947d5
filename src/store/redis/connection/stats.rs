//! Counters of a Redis store, with notices and audit events for changes in the store's
//! availability.

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

/// The name that represents all nodes of a Cluster.
pub(crate) const THE_CLUSTER: &str = "the cluster";

/// An unavailable server and the reason for the outage.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    server: Arc<str>,
    kind: StoreErrorKind,
    /// A message from the server or the operating system.
    cause: Option<Arc<str>>,
    is_cluster: bool,
}

impl Outage {
    /// Creates the outage of a server that failed with this error.
    pub(crate) fn of(server: &impl fmt::Display, error: &StoreError) -> Self {
        Self {
            server: server.to_string().into(),
            kind: error.kind(),
            cause: error.source().map(|cause| cause.to_string().into()),
            is_cluster: false,
        }
    }

    /// Creates the outage of a Cluster whose nodes returned no reason.
    pub(crate) fn for_cluster() -> Self {
        Self::of(&THE_CLUSTER, &StoreErrorKind::Unavailable.into())
    }

    /// Extends the outage of the most recently tried node to the entire Cluster.
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

    /// Returns the error kind of a call that is not sent during the outage.
    ///
    /// This kind is the kind of the outage, except that a timeout becomes
    /// [`StoreErrorKind::Unavailable`]. A call that was not sent had no effect.
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

/// Creates the error of a call that was not sent because of an outage.
impl From<Outage> for StoreError {
    fn from(outage: Outage) -> Self {
        Self::with_source(outage.kind_of_calls(), outage.to_string())
    }
}

/// The counters of a [`RedisStore`](crate::store::redis::store::RedisStore). They start at zero
/// when the store is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisStats {
    /// The number of calls that were sent. A batch of decisions counts as one call.
    pub calls: u64,
    /// The number of sent calls that timed out.
    pub timeouts: u64,
    /// The number of sent calls that lost their connection or received an invalid reply.
    pub broken: u64,
    /// The number of calls that were not sent because the server was unavailable or too many calls
    /// were waiting.
    pub refused: u64,
    /// The number of requests that were rejected locally, based on an earlier rejection by the
    /// server.
    pub local_denials: u64,
    /// The number of attempts to open a connection.
    pub connects: u64,
    /// The number of times that a server became unavailable.
    pub downs: u64,
    /// The number of servers that are currently unavailable.
    pub down: u64,
    /// The number of commands that a server rejected with `OOM` because `maxmemory` was reached.
    pub rejected_oom: u64,
    /// The number of commands that a server rejected with `NOPERM` because the user lacks a
    /// permission.
    pub rejected_noperm: u64,
    /// The number of commands that a server rejected with `NOREPLICAS` because too few replicas
    /// were connected.
    pub rejected_noreplicas: u64,
    /// The number of commands that a server rejected with `MISCONF` because the server cannot
    /// persist data.
    pub rejected_misconf: u64,
    /// The number of commands that a server rejected with any other error.
    pub rejected_other: u64,
}

/// Counts calls and reports changes in the availability of servers.
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
    /// The last outage, until the server is available again.
    outage: Mutex<Option<Outage>>,
    rejections: [Rejections; ServerRefusal::COUNT],
}

/// The commands that servers rejected for the same cause.
#[derive(Debug, Default)]
struct Rejections {
    count: Counter,
    onset: Onset,
}

/// A counter that never decreases.
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
        // `ups` is read first, so that `down` is never too low.
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

    /// Reports that a server is unavailable.
    pub(crate) fn down(&self, outage: Outage) {
        self.downs.add_one();
        let (store, kind) = (&self.name, outage.kind);
        notice::once(&AtomicBool::new(false), || {
            format!("store `{store}`: {outage}")
        });
        self.still_down(outage);
        self.audit(|store| AuditEvent::StoreDown { store, kind });
    }

    /// Updates the reason of an outage that was already reported.
    pub(crate) fn still_down(&self, outage: Outage) {
        *self.lock_outage() = Some(outage);
    }

    /// Returns the last outage if the server is still unavailable.
    pub(crate) fn outage(&self) -> Option<Outage> {
        self.lock_outage().clone()
    }

    fn lock_outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rejections_of(&self, refusal: ServerRefusal) -> &Rejections {
        &self.rejections[refusal as usize]
    }

    /// Counts a command that a server rejected, and reports the first rejection for each cause.
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
            format!("store `{store}`: {server} rejects commands: {cause}")
        });
        self.audit(|store| AuditEvent::StoreRejected {
            store,
            kind,
            cause: cause.into(),
        });
    }

    /// Reports that open connections could not be authenticated with new credentials.
    pub(super) fn kept_credentials(&self, error: &StoreError) {
        let store = &self.name;
        notice::once(&AtomicBool::new(false), || {
            let cause = error.source().map(ToString::to_string);
            let cause = cause.unwrap_or_else(|| error.to_string());
            format!("store `{store}`: connections keep their previous credentials: {cause}")
        });
    }

    /// Reports that a server is available again.
    pub(crate) fn up(&self, server: &str) {
        self.ups.add_one();
        self.lock_outage().take_if(|outage| outage.is_of(server));
        let store = &self.name;
        let message = || format!("store `{store}`: {server} replies again");
        notice::once(&AtomicBool::new(false), message);
        self.audit(|store| AuditEvent::StoreUp { store });
    }

    /// Records that an unavailable server is no longer used.
    pub(super) fn forgotten(&self) {
        self.ups.add_one();
    }

    fn audit(&self, event: impl FnOnce(Arc<str>) -> AuditEvent) {
        if let Some(auditor) = &self.auditor {
            auditor.audit(&event(Arc::clone(&self.name)));
        }
    }
}
