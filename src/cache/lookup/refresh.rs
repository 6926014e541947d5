//! Refreshing a stale response in the background.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::step::{LookupEvent, LookupOutcome};
use crate::{
    cache::{
        exchange::{conclusion::Conclusion, exchange::Exchange},
        fill::body::CacheBody,
        flight::lease::PAUSE_MAX,
        store::Lease,
    },
    core::{error::BoxError, store_api::store_future::StoreFuture},
};

/// Calls the handler in the background to refresh a stale response. If there is a lease, it is
/// acquired first.
pub(crate) fn refresh<S, ReqBody, ResBody>(
    exchange: Exchange,
    leased: Option<StoreFuture<Lease>>,
    ready: S,
    request: Request<ReqBody>,
) where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    let config = Arc::clone(&exchange.config);
    let stale = exchange.refreshed();
    let timed = Arc::clone(&config);
    config.spawn(Box::pin(async move {
        let mut work = pin!(refreshed(exchange, leased, ready, request));
        let mut deadline = timed.sleep(timed.refresh_timeout);
        let is_done = poll_fn(|cx| {
            if work.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            match &mut deadline {
                Some(deadline) => deadline.as_mut().poll(cx).map(|()| false),
                None => Poll::Pending,
            }
        })
        .await;
        // Starts the backoff before the work is dropped, so that the waiters see it.
        if let (false, Some(stale)) = (is_done, &stale) {
            Exchange::refresh_timed_out(&timed, stale);
        }
    }));
}

async fn refreshed<S, ReqBody, ResBody>(
    mut exchange: Exchange,
    leased: Option<StoreFuture<Lease>>,
    mut ready: S,
    mut request: Request<ReqBody>,
) where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ReqBody: 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    if let Some(leased) = leased
        && !is_leader(&mut exchange, leased, &mut request).await
    {
        return;
    }
    exchange.prepare(&mut request);
    loop {
        // The service may have been called before.
        if poll_fn(|cx| ready.poll_ready(cx)).await.is_err() {
            exchange.rescue();
            return;
        }
        let Ok(response) = ready.call(request).await else {
            // The response stays stale, and is refreshed again after a pause.
            exchange.rescue();
            return;
        };
        match concluded(exchange, response).await {
            Conclusion::Send(response, settling) => {
                if let Some(settling) = settling {
                    let _ = settling.settled.await;
                }
                return drain(response.into_body()).await;
            }
            Conclusion::Read(_, body, _) => return drain(body).await,
            Conclusion::StandIn(..) | Conclusion::LookUp(..) => return,
            Conclusion::AskAgain(again) => exchange = again,
        }
        match exchange.ask_again() {
            Some(again) => request = again,
            None => return,
        }
    }
}

/// Handles the handler's response.
async fn concluded<B>(exchange: Exchange, response: Response<B>) -> Conclusion<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    let mut conclusion = with_context(|cx| exchange.conclude(response, cx)).await;
    while let Conclusion::LookUp(exchange, response, found) = conclusion {
        let found = found.await;
        conclusion = with_context(|cx| exchange.conclude_after(found, response, cx)).await;
    }
    conclusion
}

/// Calls a function with the context of the task.
async fn with_context<T>(call: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    call(&mut Context::from_waker(&waker))
}

/// Waits for the lease. Returns `true` if this instance has to refresh the response: no other
/// instance holds the lease, and the stored response is still stale.
async fn is_leader<ReqBody: 'static>(
    exchange: &mut Exchange,
    leased: StoreFuture<Lease>,
    request: &mut Request<ReqBody>,
) -> bool {
    let leased = leased.await;
    if let Ok(Lease::Busy(_)) = leased {
        // Another instance refreshes it. No request of this instance tries again during the pause.
        if let Some(pause) = exchange.config.sleep(PAUSE_MAX) {
            pause.await;
        }
        return false;
    }
    let mut come = LookupEvent::Lease(leased);
    while let Some(mut search) = exchange.search() {
        match search.go_on(Some(come), request) {
            LookupOutcome::Call => return true,
            LookupOutcome::Wait(waiting) => come = waiting.await,
            LookupOutcome::Response(_) | LookupOutcome::ServeAndRefresh(..) => return false,
        }
    }
    true
}

/// Reads a body while it is being stored.
async fn drain<B>(body: CacheBody<B>)
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    while body.is_filling() {
        let Some(Ok(_)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await else {
            return;
        };
    }
}
