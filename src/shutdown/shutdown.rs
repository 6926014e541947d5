//! Shutdown requests and server draining.

use std::{
    fmt,
    future::{Future, IntoFuture, pending, poll_fn},
    panic::catch_unwind,
    pin::pin,
    process,
    sync::{Arc, atomic::AtomicBool},
    task::Poll,
    time::Duration,
};

use tokio::sync::watch;

use super::signals::Signals;
use crate::core::{
    error::ConfigError,
    notice,
    runtime::{Runtime, TokioRuntime},
};

/// The default of [`Shutdown::drain_timeout`].
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A shutdown request, and the time that the server then has to complete the requests in flight.
///
/// Clones share the shutdown request. See the [module](super) for an example.
#[derive(Clone)]
pub struct Shutdown {
    requested: Arc<watch::Sender<bool>>,
    drain_timeout: Duration,
}

impl Shutdown {
    /// Creates a shutdown that only [`request`](Self::request) starts, for tests and for
    /// applications that handle signals themselves.
    pub fn new() -> Self {
        Self {
            requested: Arc::new(watch::Sender::new(false)),
            drain_timeout: DRAIN_TIMEOUT,
        }
    }

    /// Creates a shutdown that starts at the first SIGINT or SIGTERM, or at Ctrl-C on systems
    /// without Unix signals.
    ///
    /// Signals are handled from this call onward. A second signal exits the process immediately
    /// with status 130 (SIGINT) or 143 (SIGTERM).
    ///
    /// # Errors
    ///
    /// Returns an error if this function is called outside a Tokio runtime or in a runtime without
    /// an I/O driver, or if the operating system rejects the signal handler.
    pub fn on_signal() -> Result<Self, ConfigError> {
        let shutdown = Self::new();
        let mut signals = listen()?;
        let requested = Arc::clone(&shutdown.requested);
        TokioRuntime.spawn(Box::pin(async move {
            signals.next().await;
            requested.send_replace(true);
            process::exit(signals.next().await)
        }));
        Ok(shutdown)
    }

    /// Sets the maximum time from the shutdown request to the end of [`drain`](Self::drain).
    ///
    /// Defaults to 10 s. Zero drops running requests immediately. Process managers kill a process
    /// that exceeds their own timeout (30 s for Kubernetes, 10 s for `docker stop`), so set a
    /// shorter time here.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Requests the shutdown, as the first signal does.
    pub fn request(&self) {
        self.requested.send_replace(true);
    }

    /// Returns `true` if the shutdown has been requested.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Completes when the shutdown is requested. Use this future in
    /// `axum::serve(..).with_graceful_shutdown(..)` or in an accept loop.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut requested = self.requested.subscribe();
        async move {
            if requested.wait_for(|requested| *requested).await.is_err() {
                // No sender is left that can request it.
                pending().await
            }
        }
    }

    /// Runs a server until the server ends, or until the [`drain_timeout`](Self::drain_timeout) has
    /// elapsed after the shutdown request.
    ///
    /// Returns the output of the server. If the timeout elapses, returns `None` and emits a notice.
    pub async fn drain<S: IntoFuture>(&self, server: S) -> Option<S::Output> {
        let mut server = pin!(server.into_future());
        let mut expired = pin!(self.expired());
        let drained = poll_fn(|cx| match server.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => expired.as_mut().poll(cx).map(|()| None),
        })
        .await;
        if drained.is_none() {
            notice::once(&AtomicBool::new(false), || too_slow(self.drain_timeout));
        }
        drained
    }

    async fn expired(&self) {
        self.requested().await;
        TokioRuntime.sleep(self.drain_timeout).await;
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("requested", &self.is_requested())
            .field("drain_timeout", &self.drain_timeout)
            .finish()
    }
}

pub(super) fn listen() -> Result<Signals, ConfigError> {
    let refused = |value: String| {
        ConfigError::new("Shutdown::on_signal", value, "signals cannot be received")
            .fix("call it inside of a Tokio runtime that was built with `enable_all`")
    };
    // Tokio reports a missing runtime or driver by a panic.
    catch_unwind(Signals::listen)
        .map_err(|_| refused("outside of a Tokio runtime with an I/O driver".to_owned()))?
        .map_err(|error| refused(error.to_string()))
}

pub(super) fn too_slow(timeout: Duration) -> String {
    format!(
        "connections were still open {timeout:?} after the shutdown was requested, and were closed: increase \
         `Shutdown::drain_timeout` if requests need more time"
    )
}
