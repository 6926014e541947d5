//! Reading a body into the store before the client is served from there.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Body;

use crate::{
    cache::{config::Config, fill::body::CacheBody},
    core::{error::BoxError, runtime::Task},
};

/// Reads a body while it is being stored, for at most the maximum wait of a collapsed request.
pub(super) struct Reading<B: Body> {
    body: Pin<Box<CacheBody<B>>>,
    until: Option<Task>,
}

impl<B: Body> Reading<B> {
    pub(super) fn new(config: &Config, body: CacheBody<B>) -> Self {
        Self {
            body: Box::pin(body),
            until: config.sleep(config.max_wait),
        }
    }
}

impl<B> Future for Reading<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { body, until } = &mut *self;
        while body.is_filling() {
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => {
                    return match until {
                        Some(until) => until.as_mut().poll(cx),
                        None => Poll::Pending,
                    };
                }
            }
        }
        Poll::Ready(())
    }
}
