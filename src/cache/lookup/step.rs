//! The events and outcomes of a lookup.

use std::{
    future::Future,
    ops::ControlFlow::{self, Break, Continue},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;

use super::reason::CacheReason;
use crate::{
    cache::{
        entry::entry::StoredResponse,
        fill::relay::{Relay, RelayReader},
        flight::single_flight::{Awaited, Landing, Wait},
        store::{Lease, Lookup},
    },
    core::{
        error::StoreError,
        runtime::Task,
        store_api::store_future::{Pending, ReadyOrPending, StoreFuture},
    },
};

/// The outcome of a lookup, once no further event is ready.
pub(crate) enum LookupOutcome {
    Call,
    Response(LookupResponse),
    /// The response is served, and the handler is called in the background, after the lease if
    /// there is one.
    ServeAndRefresh(Box<Response<Bytes>>, Option<StoreFuture<Lease>>),
    Wait(LookupWait),
}

/// A further event that is ready, or the outcome of the lookup.
pub(super) type LookupTransition = ControlFlow<LookupOutcome, LookupEvent>;

/// The end of a wait.
pub(crate) enum LookupEvent {
    Lookup(Result<Lookup, StoreError>),
    /// `None` if the wait timed out.
    Landing(Option<Landing>),
    /// The head of the response that another request is filling.
    Relay(Box<Joining>),
    Checked(Result<bool, StoreError>, Box<Joining>),
    Turn,
    Lease(Result<Lease, StoreError>),
    Paused,
}

/// A wait of a request before the handler is called.
pub(crate) enum LookupWait {
    /// The store's reply.
    Store(Pending<Lookup>),
    /// Another request, until the deadline.
    Flight(Wait, Option<Task>),
    /// One turn of the executor.
    Turn { has_passed: bool },
    /// The store's reply to the check for a purge of a response that is still being stored.
    Check(Checking),
    /// The lease.
    Lease(Pending<Lease>),
    /// The lease of another instance.
    Pause(Task),
}

/// A pending check for a purge, and the request that waits for it.
type Checking = Pin<Box<dyn Future<Output = (Result<bool, StoreError>, Box<Joining>)> + Send>>;

impl LookupOutcome {
    /// Waits for the store's reply to a lease request, unless it is ready.
    pub(super) fn lease(leased: StoreFuture<Lease>) -> LookupTransition {
        match leased.into_ready() {
            ReadyOrPending::Ready(leased) => Continue(LookupEvent::Lease(leased)),
            ReadyOrPending::Pending(pending) => Break(Self::Wait(LookupWait::Lease(pending))),
        }
    }

    /// Waits for the check for a purge of a response that is still being stored, unless it is
    /// ready.
    pub(super) fn check(purged: StoreFuture<bool>, joining: Box<Joining>) -> LookupTransition {
        match purged.into_ready() {
            ReadyOrPending::Ready(purged) => Continue(LookupEvent::Checked(purged, joining)),
            ReadyOrPending::Pending(pending) => {
                let checking = Box::pin(async move { (pending.await, joining) });
                Break(Self::Wait(LookupWait::Check(checking)))
            }
        }
    }
}

impl Future for LookupWait {
    type Output = LookupEvent;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LookupEvent> {
        match &mut *self {
            Self::Store(lookup) => lookup.as_mut().poll(cx).map(LookupEvent::Lookup),
            Self::Lease(lease) => lease.as_mut().poll(cx).map(LookupEvent::Lease),
            Self::Pause(pause) => pause.as_mut().poll(cx).map(|()| LookupEvent::Paused),
            Self::Turn { has_passed: true } => Poll::Ready(LookupEvent::Turn),
            Self::Turn { has_passed } => {
                *has_passed = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Check(checking) => {
                let (purged, joining) = ready!(checking.as_mut().poll(cx));
                Poll::Ready(LookupEvent::Checked(purged, joining))
            }
            Self::Flight(wait, deadline) => match Pin::new(&mut *wait).poll(cx) {
                Poll::Ready(Awaited::Landing(landing)) => {
                    Poll::Ready(LookupEvent::Landing(Some(landing)))
                }
                Poll::Ready(Awaited::Relay(relay)) => {
                    let (wait, deadline) = (wait.again(), deadline.take());
                    let joining = Joining {
                        relay,
                        wait,
                        deadline,
                    };
                    Poll::Ready(LookupEvent::Relay(Box::new(joining)))
                }
                Poll::Pending => {
                    let Some(deadline) = deadline else {
                        return Poll::Pending;
                    };
                    ready!(deadline.as_mut().poll(cx));
                    Poll::Ready(LookupEvent::Landing(wait.give_up()))
                }
            },
        }
    }
}

/// A response for which the handler is not called.
pub(crate) enum LookupResponse {
    /// A stored response, its decompressed body if the client does not accept the stored encoding,
    /// and the reason that it is served although the client requested a newer one.
    Fresh(Arc<StoredResponse>, Option<Bytes>, Option<CacheReason>),
    /// Any other response.
    Made(Box<Response<Bytes>>),
    /// A response that is still being stored.
    Streamed(Box<RelayedResponse>),
}

/// A request that waits for a response whose head has arrived.
pub(crate) struct Joining {
    pub(crate) relay: Arc<Relay>,
    pub(crate) wait: Wait,
    /// The deadline of its wait until the response is stored.
    pub(crate) deadline: Option<Task>,
}

/// A request that streams a response while it is being stored.
pub(crate) struct RelayedResponse {
    pub(super) relay: Arc<Relay>,
    pub(super) reader: RelayReader,
    pub(super) wait: Wait,
}
