//! The future that drives a connection, and the counter of the connection's replies.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Drives a connection's I/O. The driver must be polled and completes when the connection ends.
pub(crate) struct Driver {
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
    replies: Replies,
}

impl Driver {
    pub(crate) fn new(task: impl Future<Output = ()> + Send + 'static, replies: Replies) -> Self {
        Self {
            task: Box::pin(task),
            replies,
        }
    }

    pub(super) fn replies(&self) -> &Replies {
        &self.replies
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.task.as_mut().poll(cx)
    }
}

/// Counts the replies on a connection, including replies to calls that were given up.
///
/// A read that ends with a line break counts as one reply, so replies from a server that sends
/// single bytes are undercounted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replies(Arc<AtomicU64>);

impl Replies {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, read: &[u8]) {
        if read.ends_with(b"\n") {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A connection whose replies are counted.
pub(crate) struct CountedStream<S> {
    stream: S,
    replies: Replies,
}

impl<S> CountedStream<S> {
    pub(crate) fn new(stream: S) -> (Self, Replies) {
        let replies = Replies::default();
        let counted = Self {
            stream,
            replies: replies.clone(),
        };
        (counted, replies)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.replies.add(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
