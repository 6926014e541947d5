//! Drives a request through the store, until it is answered or the handler is to be called.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Request;

use super::{
    search::{Answer, Joining, Search, Step},
    single_flight::{Awaited, Landing, Wait},
};
use crate::{
    cache::store::{Lease, Lookup},
    core::{
        error::StoreError,
        runtime::Task,
        store_api::store_future::{Pending, StoreFuture},
    },
};

/// A wait of a request before the handler is called.
pub(crate) enum Waiting {
    /// The store's reply.
    Store(Pending<Lookup>),
    /// Another request, until the deadline.
    Flight(Wait, Option<Task>),
    /// One turn of the executor.
    Turn { has_passed: bool },
    /// The store's word on whether a response that is still being stored was purged.
    Check(Checking),
    /// The lease.
    Lease(Pending<Lease>),
    /// Another process.
    Pause(Task),
}

/// The store's reply, and the request that waits for it.
type Checking = Pin<Box<dyn Future<Output = (Result<bool, StoreError>, Box<Joining>)> + Send>>;

/// The end of a wait.
pub(crate) enum Come {
    Lookup(Result<Lookup, StoreError>),
    /// No landing, if the wait was too long.
    Landing(Option<Landing>),
    /// The head of the response that another request fills.
    Relay(Box<Joining>),
    Checked(Result<bool, StoreError>, Box<Joining>),
    Turn,
    Lease(Result<Lease, StoreError>),
    Paused,
}

/// The step that a look-up ends with, once nothing further is available at once.
pub(crate) enum Next {
    Call,
    Answer(Answer),
    /// The handler is called in the background: at once, or if the store gives the lease.
    AnswerAndRefresh(Answer, Option<StoreFuture<Lease>>),
    Wait(Waiting),
}

/// Goes on with what has come, or with the first look-up where nothing has yet.
#[inline]
pub(crate) fn go_on<ReqBody: 'static>(
    search: &mut Search<'_>,
    mut come: Option<Come>,
    request: &mut Request<ReqBody>,
) -> Next {
    loop {
        let step = match come.take() {
            None => Step::Ask,
            Some(Come::Lookup(answer)) => search.learn(answer, request),
            Some(Come::Landing(landing)) => search.landed(landing),
            Some(Come::Relay(joining)) => search.head_came(joining, request),
            Some(Come::Checked(purged, joining)) => search.checked(purged, joining),
            Some(Come::Turn) => search.turned(request),
            Some(Come::Lease(answer)) => search.leased(answer),
            Some(Come::Paused) => search.paused(),
        };
        match step {
            Step::Ask => match search.ask(request).map(StoreFuture::into_ready) {
                None => return Next::Call,
                Some(Ok(answer)) => come = Some(Come::Lookup(answer)),
                Some(Err(pending)) => return Next::Wait(Waiting::Store(pending)),
            },
            Step::Lease(answer) => match answer.into_ready() {
                Ok(answer) => come = Some(Come::Lease(answer)),
                Err(pending) => return Next::Wait(Waiting::Lease(pending)),
            },
            Step::Check(purged, joining) => match purged.into_ready() {
                Ok(purged) => come = Some(Come::Checked(purged, joining)),
                Err(pending) => {
                    let checking = Box::pin(async move { (pending.await, joining) });
                    return Next::Wait(Waiting::Check(checking));
                }
            },
            Step::Pause(pause) => return Next::Wait(Waiting::Pause(pause)),
            Step::Turn => return Next::Wait(Waiting::Turn { has_passed: false }),
            Step::Call => return Next::Call,
            Step::Answer(answer) => return Next::Answer(answer),
            Step::AnswerAndRefresh(answer, leased) => {
                return Next::AnswerAndRefresh(answer, leased);
            }
            Step::Wait(wait, at_most) => {
                let deadline = search.config.sleep(at_most);
                return Next::Wait(Waiting::Flight(wait, deadline));
            }
            Step::WaitOn(joining) => {
                return Next::Wait(Waiting::Flight(joining.wait, joining.deadline));
            }
        }
    }
}

impl Waiting {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Come> {
        match self {
            Self::Store(lookup) => lookup.as_mut().poll(cx).map(Come::Lookup),
            Self::Lease(lease) => lease.as_mut().poll(cx).map(Come::Lease),
            Self::Pause(pause) => pause.as_mut().poll(cx).map(|()| Come::Paused),
            Self::Turn { has_passed: true } => Poll::Ready(Come::Turn),
            Self::Turn { has_passed } => {
                *has_passed = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Check(checking) => {
                let (purged, joining) = ready!(checking.as_mut().poll(cx));
                Poll::Ready(Come::Checked(purged, joining))
            }
            Self::Flight(wait, deadline) => match Pin::new(&mut *wait).poll(cx) {
                Poll::Ready(Awaited::Landing(landing)) => Poll::Ready(Come::Landing(Some(landing))),
                Poll::Ready(Awaited::Relay(relay)) => {
                    let (wait, deadline) = (wait.again(), deadline.take());
                    let joining = Joining {
                        relay,
                        wait,
                        deadline,
                    };
                    Poll::Ready(Come::Relay(Box::new(joining)))
                }
                Poll::Pending => {
                    let Some(deadline) = deadline else {
                        return Poll::Pending;
                    };
                    ready!(deadline.as_mut().poll(cx));
                    Poll::Ready(Come::Landing(wait.give_up()))
                }
            },
        }
    }
}
