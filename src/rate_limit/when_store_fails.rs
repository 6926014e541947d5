//! What one policy wants while the store fails.

/// What becomes of a request by one policy while the limiter's store fails, whatever
/// [`OnStoreError`](super::OnStoreError) says for the others.
///
/// The strictest word of a request's policies stands: one that denies turns the request away, and
/// only if all allow it passes unasked. A policy that only [watches](super::Policy::shadow) has no
/// say.
///
/// ```
/// use portcullis::rate_limit::{Policy, Quota, WhenStoreFails};
///
/// // Better no service than one that nobody pays for; but a burst may pass meanwhile.
/// let paid = Policy::calendar_month("paid", 50_000)?.when_store_fails(WhenStoreFails::Deny);
/// let burst = Policy::token_bucket("burst", Quota::per_second(10))?
///     .when_store_fails(WhenStoreFails::Allow);
/// # let _ = (paid, burst);
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenStoreFails {
    /// It is decided by the store of [`OnStoreError::local`](super::OnStoreError::local), which the
    /// limiter must have.
    Local,
    /// It passes.
    Allow,
    /// It is turned away with `503`.
    Deny,
}
