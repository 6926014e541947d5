//! Options for request collapsing and for refreshes.

use std::time::Duration;

use super::builder::CacheLayerBuilder;

impl CacheLayerBuilder {
    /// Sets the maximum number of requests that wait for the response to a single handler call, or
    /// stream that response while it is being stored. Requests beyond this number call the handler
    /// immediately. Defaults to 1024; zero disables collapsing.
    ///
    /// Concurrent requests for the same response result in one call to the handler, regardless of
    /// their conditions and ranges. A URL or route whose last response could not be stored is
    /// excluded for at least two minutes: see [Collapsing](crate::guide) in the guide.
    /// [`CachePolicy::collapse`](crate::cache::CachePolicy::collapse) overrides this exclusion for
    /// a route.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.max_waiters = waiters;
        self
    }

    /// Sets the maximum time that a request waits for the response to another request. After that
    /// time, the request calls the handler, or receives a stale response if one may be served.
    /// Defaults to 5 seconds.
    ///
    /// A request that streams the response while it is being stored can take longer. For such
    /// requests, this option limits how long one of them may stall the others, and how long the
    /// body is read after the last client has disconnected.
    ///
    /// The time is measured by [`runtime`](Self::runtime). Without a runtime, or with a Tokio
    /// runtime that has no time driver, waiting for other requests in this process has no time
    /// limit, and requests do not wait for other processes.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Sets the initial and the maximum pause after the origin fails. Each further failure doubles
    /// the pause. Defaults to 1 second and 30 seconds, respectively. Each pause is varied by up to
    /// 10 %. An initial pause of zero disables pauses; [`build`](Self::build) rejects an initial
    /// pause that exceeds the maximum.
    ///
    /// During the pause, a stale response that may be served (`stale-if-error` or
    /// `stale-while-revalidate`) is served without calling the handler. Requests without such a
    /// response are not affected. A failure is a handler error, a status of 500, 502, 503 or 504,
    /// or a timeout.
    pub fn failure_backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.failure_backoff = (initial, max);
        self
    }

    /// Sets the timeout of a background refresh (`stale-while-revalidate`), from the call to the
    /// handler until the end of the body. A refresh that exceeds this timeout is canceled and
    /// counts as a failure of the origin. Defaults to 30 seconds; must be greater than zero.
    pub fn refresh_timeout(mut self, timeout: Duration) -> Self {
        self.refresh_timeout = timeout;
        self
    }
}
