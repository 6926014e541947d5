//! Store requests that complete in the background if their caller is dropped.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    cache::config::Config,
    core::{
        error::StoreError,
        store_api::store_future::{Pending, StoreFuture},
    },
};

/// Completes a store request in the background if the returned future is dropped, and calls `then`
/// with the reply. If the future is polled to completion, `then` is not called.
pub(crate) fn assured<T: Send + 'static>(
    config: &Arc<Config>,
    reply: StoreFuture<T>,
    then: impl FnOnce(T) + Send + Unpin + 'static,
) -> StoreFuture<T> {
    match reply {
        StoreFuture::Ready(reply) => StoreFuture::Ready(reply),
        StoreFuture::Pending(pending) => StoreFuture::Pending(Box::pin(Assured {
            config: Arc::clone(config),
            rest: Some((pending, then)),
        })),
    }
}

struct Assured<T: Send + 'static, F: FnOnce(T) + Send + 'static> {
    config: Arc<Config>,
    rest: Option<(Pending<T>, F)>,
}

impl<T, F> Future for Assured<T, F>
where
    T: Send + 'static,
    F: FnOnce(T) + Send + Unpin + 'static,
{
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (pending, _) = self.rest.as_mut().expect("it is polled until it is ready");
        let reply = std::task::ready!(pending.as_mut().poll(cx));
        self.rest = None;
        Poll::Ready(reply)
    }
}

impl<T, F> Drop for Assured<T, F>
where
    T: Send + 'static,
    F: FnOnce(T) + Send + 'static,
{
    fn drop(&mut self) {
        let Some((pending, then)) = self.rest.take() else {
            return;
        };
        let reply = self.config.keeping.bound(StoreFuture::Pending(pending));
        self.config.spawn(Box::pin(async move {
            if let Ok(reply) = reply.await {
                then(reply);
            }
        }));
    }
}
