//! Bans of partitions that are denied too often, or fail to authenticate.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::StatusCode;

use super::{decision::Decision, policy::Policy, quota::Quota, store::RateLimitStore};
use crate::{
    audit::{Audit, AuditEvent},
    error::ConfigError,
    record::PolicyOutcome,
    rejection::Rejection,
    store_key::StoreKey,
};

/// Bans a partition for a while that is denied too often.
///
/// Denials are counted in the limiter's store, under the partition that its policies count by, and
/// so are bans: all instances on one store share them, and they take a place there only of who was
/// denied. A ban ends when its time is over, whatever its partition does meanwhile, and its denials
/// are counted anew from then on. While the store fails nobody is banned.
///
/// ```
/// use std::time::Duration;
/// use portcullis::rate_limit::Penalty;
///
/// // Who is denied 20 times in a minute, or sends as many wrong keys, stays out for ten.
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
}

impl Penalty {
    /// Bans after so many denials: within a minute, and for ten, unless other times are set.
    pub fn after(denials: u64) -> Self {
        Self {
            name: "penalty".to_owned(),
            denials,
            within: Duration::from_secs(60),
            ban_for: Duration::from_secs(10 * 60),
            failed_auth: false,
            forbids: false,
        }
    }

    /// Sets in how much time the denials must come.
    pub fn denials_within(mut self, window: Duration) -> Self {
        self.within = window;
        self
    }

    /// Sets how long a ban lasts.
    pub fn ban_for(mut self, duration: Duration) -> Self {
        self.ban_for = duration;
        self
    }

    /// Counts responses of `401` and `403` as denials too. The limiter has to stand outside of the layer
    /// that authenticates. Off by default.
    ///
    /// A rejection by a layer of this crate is judged by its status, also where the client is told a
    /// gRPC status instead. Over HTTP/2 the gRPC statuses `UNAUTHENTICATED` and `PERMISSION_DENIED` in
    /// the head of a response count as well.
    pub fn failed_auth(mut self) -> Self {
        self.failed_auth = true;
        self
    }

    /// Answers who is banned with `403`, and not with `429`. Both have `Retry-After`.
    pub fn forbid(mut self) -> Self {
        self.forbids = true;
        self
    }

    /// Sets the name under which the ban appears in audit events, records and responses. Defaults to
    /// `penalty`.
    ///
    /// Limiters on one store whose penalties have the same name and the same [`ban_for`](Self::ban_for)
    /// share the bans of a partition. Penalties whose bans last for different times never affect one
    /// another.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    pub(super) fn build(self) -> Result<Bans, ConfigError> {
        if self.name.len() > 48 {
            return Err(ConfigError::new(
                "penalty",
                &self.name,
                "a penalty is named by at most 48 characters",
            )
            .fix("give a shorter name"));
        }
        let denials = Quota::new(self.denials, self.within);
        let ban = Quota::new(1, self.ban_for);
        let denials = Policy::fixed_window(&format!("{} denials", self.name), denials)?;
        Ok(Bans {
            // A ban resets them: they belong to it.
            denials: denials.scope(&format!("ban of {:?}", self.ban_for)),
            ban: Policy::fixed_window(&self.name, ban)?.scope("ban"),
            failed_auth: self.failed_auth,
            forbids: self.forbids,
        })
    }
}

/// A penalty, as it is counted.
#[derive(Clone, Debug)]
pub(super) struct Bans {
    denials: Policy,
    // One window of it is a ban.
    ban: Policy,
    failed_auth: bool,
    forbids: bool,
}

impl Bans {
    /// Returns the policy that is asked, at no cost, whether there is a ban.
    pub(super) fn policy(&self) -> &Policy {
        &self.ban
    }

    /// Returns all that is counted.
    pub(super) fn policies(&self) -> [&Policy; 2] {
        [&self.denials, &self.ban]
    }

    /// Returns whether any answer counts as a denial.
    pub(super) fn counts_auth(&self) -> bool {
        self.failed_auth
    }

    /// Returns whether an answer of this status counts as a denial.
    pub(super) fn count(&self, status: StatusCode) -> bool {
        self.failed_auth && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// Returns how a banned request is turned away, if this says that there is a ban.
    pub(super) fn rejection(&self, said: &Decision) -> Option<(Rejection, PolicyOutcome)> {
        if said.remaining() > 0 {
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
        .retry_after(said.reset_after())
        .member("violated-policies", [self.ban.name()]);
        let wait = said.reset_after();
        let name = Arc::clone(self.ban.shared_name());
        let outcome = PolicyOutcome::denied(name, 1, 0, Some(wait), wait);
        Some((rejection, outcome))
    }

    /// Counts a denial, and bans if it was one too many. A store that fails is not asked again.
    pub(super) async fn denied(
        self: Arc<Self>,
        store: Arc<dyn RateLimitStore>,
        partition: StoreKey,
        subject: Arc<str>,
        audit: Audit,
    ) {
        let one = |policy| [super::charge::Charge::new(policy, 1)];
        let counted = store.take(&partition, &one(&self.denials));
        let Ok(counted) = counted.await else { return };
        if counted
            .each()
            .first()
            .is_none_or(|said| said.remaining() > 0)
        {
            return;
        }
        let raised = store.take(&partition, &one(&self.ban));
        if raised.await.is_ok_and(|raised| raised.is_admitted()) {
            audit.tell(|| AuditEvent::BanRaised {
                subject,
                policy: Arc::clone(self.ban.shared_name()),
            });
            let _ = store.reset(&partition, &[&self.denials]).await;
        }
    }
}
