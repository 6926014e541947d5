//! The rule of one policy for requests that its limiter's store fails to decide.

/// The rule of one policy for requests that its limiter's store fails to decide.
///
/// Created from an [`OnStoreError`](crate::rate_limit::OnStoreError). A policy cannot hold one,
/// because the store in it is called with policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureOverride {
    /// The limiter's local store decides, which must be this one.
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
