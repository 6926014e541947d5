//! The stores of a limiter: the main store, and a local store that decides while the main store
//! fails.

use std::{
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use http::Extensions;
use smallvec::SmallVec;

use super::{local_store::LocalStore, on_store_error::OnStoreError, watched::BackgroundStore};
use crate::{
    core::{
        audit::Audit,
        error::{ConfigError, StoreErrorKind},
        record::RecordHandle,
        runtime::{self, Runtime, Task},
        store_api::{
            store_future::StoreFuture, store_key::StoreKey, store_monitor::StoreWatch,
            timeout::Deadline,
        },
    },
    rate_limit::{
        admission::charged::Paid,
        decision::{charge::Charge, decision::Decisions},
        policy::{
            policy::Policy,
            policy_set::{FailureRule, PolicySet},
        },
        store::RateLimitStore,
    },
};

/// The default time that a request waits for the store.
const STORE_TIMEOUT: Duration = Duration::from_millis(25);

/// The options of a limiter that concern its stores.
pub(crate) struct StoreOptions {
    pub(crate) store: Arc<dyn RateLimitStore>,
    pub(crate) on_error: OnStoreError,
    pub(crate) deadline: Deadline,
    pub(crate) runtime: Option<Arc<dyn Runtime>>,
}

/// The stores of a limiter.
pub(crate) struct Stores {
    pub(crate) options: StoreOptions,
    /// The same store, for calls that no request waits for.
    pub(crate) background: Arc<dyn RateLimitStore>,
    local: Option<Arc<LocalStore>>,
    watch: StoreWatch,
}

/// The store that decides a request.
pub(crate) enum DecidingStore {
    Main,
    /// The local store, and the kind of failure of the main store.
    Local(Arc<LocalStore>, StoreErrorKind),
}

impl StoreOptions {
    pub(crate) fn new(store: Arc<dyn RateLimitStore>) -> Self {
        Self {
            store,
            on_error: OnStoreError::default(),
            deadline: Deadline::after(STORE_TIMEOUT),
            runtime: runtime::ambient(),
        }
    }

    /// Sets the runtime for background tasks, for the timers of queues, and for the store timeout.
    pub(crate) fn run_on(&mut self, runtime: Arc<dyn Runtime>) {
        self.deadline.sleep_on(Arc::clone(&runtime));
        self.runtime = Some(runtime);
    }

    /// Returns the number of instances that divide the quotas of a local store.
    fn share(&self) -> Option<NonZeroU32> {
        self.on_error.share().ok().flatten()
    }

    /// Checks that the timeout is valid.
    ///
    /// # Errors
    ///
    /// Returns an error if the timeout is zero.
    pub(crate) fn check_timeout(&self) -> Result<(), ConfigError> {
        if !self.deadline.is_zero() {
            return Ok(());
        }
        let problem = "it must be greater than zero";
        let error = ConfigError::new("store_timeout", "0ns", problem);
        Err(error.fix("set some tens of milliseconds, or call `without_store_timeout`"))
    }

    /// Checks that the store can settle and refund charges.
    ///
    /// # Errors
    ///
    /// Returns an error if the store cannot change its charges.
    pub(crate) fn check_settlement(&self, option: &'static str) -> Result<(), ConfigError> {
        if self.store.can_settle() {
            return Ok(());
        }
        let problem = "the store can neither charge nor refund";
        let error = ConfigError::new(option, format_args!("{:?}", self.store), problem);
        Err(error.fix("use a store that can, such as `MemoryStore`"))
    }
}

impl Stores {
    pub(crate) fn new(options: StoreOptions, audit: Audit) -> Self {
        let watch = StoreWatch::new("rate_limit", audit);
        let deadline = options.deadline.beside(options.store.has_timeout());
        Self {
            background: Arc::new(BackgroundStore::new(&options.store, &watch)),
            local: options.on_error.store().map(LocalStore::new).map(Arc::new),
            options: StoreOptions {
                deadline,
                ..options
            },
            watch,
        }
    }

    /// Records that the main store has replied immediately.
    #[inline]
    pub(crate) fn note_reply(&self) {
        self.watch.answered_at_once();
    }

    /// Charges the store. The request waits for the reply.
    #[inline]
    pub(crate) fn take(
        &self,
        store: &DecidingStore,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        extensions: &Extensions,
    ) -> StoreFuture<Decisions> {
        match store {
            DecidingStore::Main => {
                let reply = self.options.store.take(partition, charges);
                let record = || RecordHandle::from_extensions(extensions).cloned();
                self.watch.over(self.options.deadline.bound(reply), record)
            }
            DecidingStore::Local(local, _) => local.take(partition, charges),
        }
    }

    /// Returns the local store and its policies after a failure of the main store, if a local store
    /// is to decide instead.
    pub(crate) fn fallback(
        &self,
        store: &DecidingStore,
        set: &PolicySet,
        failure: StoreErrorKind,
    ) -> Option<(DecidingStore, Arc<PolicySet>)> {
        match (store, &self.local) {
            (DecidingStore::Main, Some(local)) => {
                let set = set.local(self.options.share())?;
                Some((DecidingStore::Local(Arc::clone(local), failure), set))
            }
            (DecidingStore::Main, None) | (DecidingStore::Local(..), _) => None,
        }
    }

    /// Returns `true` if a request that no store has decided is to be admitted.
    pub(crate) fn admit_undecided(&self, set: &PolicySet) -> bool {
        match (set.failure_rule(), &self.options.on_error) {
            (FailureRule::Allow, _) | (FailureRule::AsLimiter, OnStoreError::Allow) => true,
            (FailureRule::Deny, _)
            | (FailureRule::AsLimiter, OnStoreError::Local { .. } | OnStoreError::Deny) => false,
        }
    }

    /// Returns the charges of an admitted request, so that they can be settled or refunded.
    pub(crate) fn charged(
        &self,
        store: &DecidingStore,
        partition: StoreKey,
        set: &Arc<PolicySet>,
        costs: &[u64],
        decisions: &Decisions,
    ) -> Paid {
        let store = match store {
            DecidingStore::Main => Arc::clone(&self.background),
            DecidingStore::Local(local, _) => Arc::clone(local) as Arc<dyn RateLimitStore>,
        };
        let runtime = self.options.runtime.as_ref();
        Paid::new(store, runtime, partition, set, costs, decisions)
    }

    /// Returns `true` if the local store may have admitted requests that have not been charged to
    /// the main store.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.has_unsent())
    }

    /// Charges the main store in the background for a partition's locally admitted requests.
    #[inline]
    pub(crate) fn charge_unsent(&self, partition: &StoreKey, set: &Arc<PolicySet>) {
        if let Some(local) = &self.local
            && self.options.store.can_settle()
        {
            self.charge_unsent_of(local, partition, set);
        }
    }

    fn charge_unsent_of(
        &self,
        local: &Arc<LocalStore>,
        partition: &StoreKey,
        set: &Arc<PolicySet>,
    ) {
        let Some(local_set) = set.local(self.options.share()) else {
            return;
        };
        if let Some(payment) = local.payment(partition, local_set) {
            let (store, set) = (Arc::clone(&self.background), Arc::clone(set));
            self.run(Box::pin(payment.send(store, set)));
        }
    }

    /// Resets these policies of a partition in both stores.
    pub(crate) fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        if let Some(local) = &self.local {
            // An in-memory store has completed by now. The caller does not wait for other stores.
            drop(local.reset(partition, policies));
        }
        self.background.reset(partition, policies)
    }

    /// Runs a task in the background. With an in-memory store, the task completes immediately.
    pub(crate) fn run(&self, mut task: Task) {
        let mut no_waker = Context::from_waker(Waker::noop());
        if task.as_mut().poll(&mut no_waker).is_pending()
            && let Some(runtime) = &self.options.runtime
        {
            runtime.spawn(task);
        }
    }
}

/// Returns one charge for each policy, all with the same cost.
pub(crate) fn equal_charges(set: &PolicySet, cost: u64) -> SmallVec<[Charge<'_>; 4]> {
    let policies = set.policies().iter();
    policies.map(|policy| Charge::new(policy, cost)).collect()
}
