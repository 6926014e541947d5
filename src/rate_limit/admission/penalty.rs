//! Bans on partitions that are denied too often or fail to authenticate.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::StatusCode;

use crate::{
    core::{
        audit::{Audit, AuditEvent},
        error::ConfigError,
        http::rejection::{Rejection, RejectionKind},
        record::PolicyOutcome,
        store_api::store_key::StoreKey,
    },
    rate_limit::{
        decision::{charge::Charge, decision::Decision},
        failover::stores::Stores,
        policy::{policy::Policy, quota::Quota},
        store::RateLimitStore,
    },
};

/// The configuration of bans on partitions that are denied too often.
///
/// Denials and bans are counted in the limiter's store, in the same partitions as the policies, so
/// all instances that share a store also share its bans. Partitions without denials take no memory.
/// A ban ends after its duration; requests during the ban do not extend it. When a ban ends, the
/// denial count restarts at zero. While the store fails, no partition is banned.
///
/// ```
/// use std::time::Duration;
/// use portcullis::rate_limit::Penalty;
///
/// // Bans for ten minutes after 20 denials or failed authentications within a minute.
/// let penalty = Penalty::after(20)
///     .denials_within(Duration::from_secs(60))
///     .ban_for(Duration::from_secs(10 * 60))
///     .failed_auth();
/// # let _ = penalty;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Penalty {
    name: String,
    denials: u64,
    within: Duration,
    ban_for: Duration,
    failed_auth: bool,
    forbids: bool,
    hidden: bool,
}

impl Penalty {
    /// Creates a penalty that bans a partition after this number of denials, which must be at least
    /// 1.
    ///
    /// By default, denials are counted within 1 minute, and a ban lasts 10 minutes.
    pub fn after(denials: u64) -> Self {
        Self {
            name: "penalty".to_owned(),
            denials,
            within: Duration::from_secs(60),
            ban_for: Duration::from_secs(10 * 60),
            failed_auth: false,
            forbids: false,
            hidden: false,
        }
    }

    /// Sets the window in which denials are counted. Defaults to 1 minute.
    pub fn denials_within(mut self, window: Duration) -> Self {
        self.within = window;
        self
    }

    /// Sets the duration of a ban. Defaults to 10 minutes.
    pub fn ban_for(mut self, duration: Duration) -> Self {
        self.ban_for = duration;
        self
    }

    /// Counts `401` and `403` responses as denials. The limiter must be outside the layer that
    /// authenticates. Off by default.
    ///
    /// A rejection by one of this crate's layers counts by its HTTP status, even if the client
    /// receives a gRPC status instead. Over HTTP/2, the gRPC statuses `UNAUTHENTICATED` and
    /// `PERMISSION_DENIED` in a response head also count.
    pub fn failed_auth(mut self) -> Self {
        self.failed_auth = true;
        self
    }

    /// Rejects banned requests with `403`. Defaults to `429`. Both responses contain `Retry-After`.
    pub fn forbid(mut self) -> Self {
        self.forbids = true;
        self
    }

    /// Sets the name of the ban in audit events, records and responses. The name is at most 48
    /// bytes long. Defaults to `penalty`.
    ///
    /// Limiters on one store share the bans of a partition if their penalties have the same name
    /// and the same [`ban_for`](Self::ban_for) duration. Penalties with different ban durations
    /// have separate bans.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Omits the name of the ban from responses, as [`Policy::hidden`] does for a policy. Off by
    /// default.
    ///
    /// Responses to banned requests still contain `Retry-After`, and a problem type for an abnormal
    /// request pattern.
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    pub(crate) fn build(self) -> Result<Bans, ConfigError> {
        if self.name.len() > 48 {
            return Err(ConfigError::new(
                "penalty",
                &self.name,
                "the name of a penalty has at most 48 bytes",
            )
            .fix("use a shorter name"));
        }
        let denials = Quota::new(self.denials, self.within);
        let ban = Policy::fixed_window(&self.name, Quota::new(1, self.ban_for))?.scope("ban");
        let denials = Policy::fixed_window(&format!("{} denials", self.name), denials)?;
        Ok(Bans {
            // A ban resets the denials, so the scope contains the ban's duration.
            denials: denials.scope(&format!("ban of {:?}", self.ban_for)),
            ban: match self.hidden {
                true => ban.hidden(),
                false => ban,
            },
            failed_auth: self.failed_auth,
            forbids: self.forbids,
        })
    }
}

/// The policies of a penalty.
#[derive(Clone, Debug)]
pub(crate) struct Bans {
    denials: Policy,
    /// One window of this policy is one ban.
    ban: Policy,
    failed_auth: bool,
    forbids: bool,
}

impl Bans {
    /// Returns the policy whose decision at cost 0 shows whether a ban is active.
    pub(crate) fn policy(&self) -> &Policy {
        &self.ban
    }

    /// Returns all policies.
    pub(crate) fn policies(&self) -> [&Policy; 2] {
        [&self.denials, &self.ban]
    }

    /// Returns `true` if responses can count as denials.
    pub(crate) fn counts_auth(&self) -> bool {
        self.failed_auth
    }

    /// Returns `true` if a response with this status counts as a denial.
    pub(crate) fn count(&self, status: StatusCode) -> bool {
        self.failed_auth && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// Returns the rejection of a banned request if the decision shows an active ban.
    pub(crate) fn rejection(&self, ban: &Decision) -> Option<(Rejection, PolicyOutcome)> {
        if ban.remaining() > 0 {
            return None;
        }
        let status = match self.forbids {
            true => StatusCode::FORBIDDEN,
            false => StatusCode::TOO_MANY_REQUESTS,
        };
        let rejection = Rejection::new(
            status,
            Cow::Borrowed(
                "https://iana.org/assignments/http-problem-types#abnormal-usage-detected",
            ),
            "Request not satisfied due to detection of abnormal request pattern",
        )
        .with_kind(RejectionKind::Banned)
        .retry_after(ban.reset_after());
        let rejection = match self.ban.is_reported() {
            true => rejection.extension_member("violated-policies", [self.ban.name()]),
            false => rejection,
        };
        let wait = ban.reset_after();
        let name = Arc::clone(self.ban.shared_name());
        let outcome = PolicyOutcome::denied(name, 1, 0, Some(wait), wait);
        Some((rejection, outcome))
    }

    /// Counts a denial against a partition in the background.
    pub(super) fn count_denial(
        self: &Arc<Self>,
        stores: &Stores,
        partition: StoreKey,
        subject: Arc<str>,
        audit: &Audit,
    ) {
        let (bans, store, audit) = (self.clone(), stores.background.clone(), audit.clone());
        stores.run(Box::pin(bans.denied(store, partition, subject, audit)));
    }

    /// Counts a denial and starts a ban if the maximum is exceeded. A failed store call is not
    /// retried.
    async fn denied(
        self: Arc<Self>,
        store: Arc<dyn RateLimitStore>,
        partition: StoreKey,
        subject: Arc<str>,
        audit: Audit,
    ) {
        let one = |policy| [Charge::new(policy, 1)];
        let counted = store.take(&partition, &one(&self.denials));
        let Ok(counted) = counted.await else { return };
        let count = counted.each().first();
        if count.is_none_or(|count| count.remaining() > 0) {
            return;
        }
        let raised = store.take(&partition, &one(&self.ban));
        if raised.await.is_ok_and(|raised| raised.is_admitted()) {
            audit.emit(|| AuditEvent::BanRaised {
                subject,
                policy: Arc::clone(self.ban.shared_name()),
            });
            let _ = store.reset(&partition, &[&self.denials]).await;
        }
    }
}
