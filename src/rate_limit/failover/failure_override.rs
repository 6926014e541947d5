//! A policy's rule for requests that the limiter's store fails to decide.

/// A policy's rule for requests that the limiter's store fails to decide.
///
/// Created from an [`OnStoreError`](crate::rate_limit::OnStoreError). A policy cannot hold an
/// `OnStoreError` directly, because the store in the `OnStoreError` is itself called with policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureOverride {
    /// The limiter's local store decides. It must be the store with this id.
    Local(LocalStoreId),
    Allow,
    Deny,
}

/// Identifies a local store and its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalStoreId {
    pub(crate) address: usize,
    pub(crate) share: u32,
}
