//! Questions to the store that are put to their end, also when whoever asked has gone away.

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

/// Waits for the store beside the requests where the asker does not wait any longer, and does `then`
/// with what it says. What it says to the asker is the asker's affair.
pub(crate) fn assured<T: Send + 'static>(
    config: &Arc<Config>,
    answer: StoreFuture<T>,
    then: impl FnOnce(T) + Send + Unpin + 'static,
) -> StoreFuture<T> {
    match answer {
        StoreFuture::Ready(answer) => StoreFuture::Ready(answer),
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
        let answer = std::task::ready!(pending.as_mut().poll(cx));
        self.rest = None;
        Poll::Ready(answer)
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
        let answer = self.config.keeping.bound(StoreFuture::Pending(pending));
        self.config.spawn(Box::pin(async move {
            if let Ok(answer) = answer.await {
                then(answer);
            }
        }));
    }
}
