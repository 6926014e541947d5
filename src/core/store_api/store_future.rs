//! What a store answers: at once, or when its server has.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::core::error::StoreError;

/// A store's answer: there at once, or pending on a server.
///
/// One concrete type, so that a store can stand behind `Arc<dyn ..>` and no type parameter reaches
/// the user. A store in memory allocates nothing for it; a store on a server pays one box beside a
/// round trip. Dropping it cancels the wait, not what the server has begun.
///
/// ```
/// use portcullis::StoreFuture;
///
/// let at_once = StoreFuture::ready(7);
/// assert!(matches!(at_once.into_ready(), Ok(Ok(7))));
///
/// let later = StoreFuture::pending(async { Ok(7) });
/// assert!(later.into_ready().is_err());
/// ```
#[must_use = "a store is asked in vain unless its answer is awaited"]
pub enum StoreFuture<T> {
    /// The answer is there. `None` once it has been taken.
    Ready(Option<Result<T, StoreError>>),
    /// The answer is on its way.
    Pending(Pending<T>),
}

/// A store's answer that is on its way.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

impl<T> StoreFuture<T> {
    /// Creates an answer that is there at once.
    pub fn ready(value: T) -> Self {
        Self::Ready(Some(Ok(value)))
    }

    /// Creates a failure that is there at once.
    pub fn failed(error: impl Into<StoreError>) -> Self {
        Self::Ready(Some(Err(error.into())))
    }

    /// Creates an answer that a future brings.
    pub fn pending(answer: impl Future<Output = Result<T, StoreError>> + Send + 'static) -> Self {
        Self::Pending(Box::pin(answer))
    }

    /// Returns the answer if it is there, or the future that will bring it.
    pub fn into_ready(self) -> Result<Result<T, StoreError>, Pending<T>> {
        match self {
            Self::Ready(answer) => Ok(answer.expect("an answer is taken once")),
            Self::Pending(pending) => Err(pending),
        }
    }
}

impl<T> From<Result<T, StoreError>> for StoreFuture<T> {
    fn from(answer: Result<T, StoreError>) -> Self {
        Self::Ready(Some(answer))
    }
}

impl<T> Unpin for StoreFuture<T> {}

impl<T> Future for StoreFuture<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Ready(answer) => Poll::Ready(answer.take().expect("polled after it was ready")),
            Self::Pending(pending) => pending.as_mut().poll(cx),
        }
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
