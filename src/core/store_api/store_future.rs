//! The result of a store call, which is available immediately or pending.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::core::error::StoreError;

/// The result of a store call, which is available immediately or pending.
///
/// `StoreFuture` is a concrete type, so stores can be trait objects, and the API needs no type
/// parameters for futures. An in-memory store allocates nothing for a result. A store on a server
/// allocates one box per round trip. Dropping the future cancels the wait, but not an operation
/// that the server has already started.
///
/// ```
/// use portcullis::StoreFuture;
///
/// let at_once = StoreFuture::ready(7);
/// assert!(matches!(at_once.into_ready().ready(), Some(Ok(7))));
///
/// let later = StoreFuture::pending(async { Ok(7) });
/// assert!(later.into_ready().ready().is_none());
/// ```
#[must_use = "a store call has no effect unless its future is awaited"]
pub enum StoreFuture<T> {
    /// The result is available. Contains `None` after the result has been taken.
    Ready(Option<Result<T, StoreError>>),
    /// The result is pending.
    Pending(Pending<T>),
}

/// A pending result of a store call.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// A store call that has either completed or is still pending.
///
/// Returned by [`StoreFuture::into_ready`]. A caller that can use a result immediately matches on
/// this type instead of polling the future.
///
/// ```
/// use portcullis::{StoreFuture, store::backend::ReadyOrPending};
///
/// fn doubled(call: StoreFuture<u64>) -> StoreFuture<u64> {
///     match call.into_ready() {
///         ReadyOrPending::Ready(reply) => reply.map(|number| 2 * number).into(),
///         ReadyOrPending::Pending(pending) => {
///             StoreFuture::pending(async { pending.await.map(|number| 2 * number) })
///         }
///     }
/// }
/// assert!(matches!(doubled(StoreFuture::ready(7)).into_ready().ready(), Some(Ok(14))));
/// ```
#[must_use = "dropping a pending call cancels the wait for its result"]
pub enum ReadyOrPending<T> {
    /// The result is available.
    Ready(Result<T, StoreError>),
    /// The result is pending.
    Pending(Pending<T>),
}

impl<T> ReadyOrPending<T> {
    /// Returns the result if it is available. Otherwise, cancels the wait and returns `None`.
    pub fn ready(self) -> Option<Result<T, StoreError>> {
        match self {
            Self::Ready(reply) => Some(reply),
            Self::Pending(_) => None,
        }
    }
}

impl<T> StoreFuture<T> {
    /// Creates a future that is immediately ready with a result.
    pub fn ready(value: T) -> Self {
        Self::Ready(Some(Ok(value)))
    }

    /// Creates a future that is immediately ready with an error.
    pub fn failed(error: impl Into<StoreError>) -> Self {
        Self::Ready(Some(Err(error.into())))
    }

    /// Creates a future from a pending result.
    pub fn pending(future: impl Future<Output = Result<T, StoreError>> + Send + 'static) -> Self {
        Self::Pending(Box::pin(future))
    }

    /// Returns the result if it is available, and otherwise the pending future.
    ///
    /// # Panics
    ///
    /// Panics if polling has already returned the result.
    pub fn into_ready(self) -> ReadyOrPending<T> {
        match self {
            Self::Ready(result) => ReadyOrPending::Ready(result.expect("a result is taken once")),
            Self::Pending(pending) => ReadyOrPending::Pending(pending),
        }
    }
}

impl<T> From<Result<T, StoreError>> for StoreFuture<T> {
    fn from(result: Result<T, StoreError>) -> Self {
        Self::Ready(Some(result))
    }
}

impl<T> Unpin for StoreFuture<T> {}

impl<T> Future for StoreFuture<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Ready(result) => Poll::Ready(result.take().expect("polled after it was ready")),
            Self::Pending(pending) => pending.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for ReadyOrPending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(Ok(_)) => "Ready(Ok(..))",
            Self::Ready(Err(_)) => "Ready(Err(..))",
            Self::Pending(_) => "Pending(..)",
        })
    }
}

impl<T> fmt::Debug for StoreFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(Some(Ok(_))) => "Ready(Ok(..))",
            Self::Ready(Some(Err(_))) => "Ready(Err(..))",
            Self::Ready(None) => "Ready(taken)",
            Self::Pending(_) => "Pending(..)",
        })
    }
}
