//! Options of start records.

use std::{sync::Arc, time::Duration};

use http::request::Parts;

use super::layer::AccessLogLayerBuilder;
use crate::core::runtime::Runtime;

impl AccessLogLayerBuilder {
    /// Also writes a start record of requests that match the predicate, before the inner service is
    /// called. Defaults to none.
    ///
    /// The record of a request is written when it has ended, so a process that is killed leaves none of
    /// the requests that were running. A start record remains. Its `event.name` is
    /// `http.server.request.start`, its `portcullis.outcome` is `running`, and it has the request id, the
    /// trace ids and the timestamp of the record that follows when the request ends, but a
    /// `log.record.uid` of its own. It is redacted by the same rules. What the response and the inner
    /// layers add is missing.
    ///
    /// The level function and [`min_level`](Self::min_level) apply. With
    /// [`sample_one_in`](Self::sample_one_in), the same digest of the request id selects both records: each
    /// start record is followed by the record of the end. Observers and auditors are not told, and
    /// [`LogStats::started`](super::LogStats::started) counts start records. Given more than once, any predicate may match. One that
    /// panics matches nothing.
    ///
    /// ```
    /// use http::header::UPGRADE;
    /// use portcullis::access_log::AccessLogLayer;
    ///
    /// // All requests, or chosen ones such as upgrades. See also `start_records_for_streams` and
    /// // `start_records_after`.
    /// let all = AccessLogLayer::builder().start_records(|_| true).build()?;
    /// let upgrades = AccessLogLayer::builder()
    ///     .start_records(|head| head.headers.contains_key(UPGRADE))
    ///     .build()?;
    /// # let _ = (all, upgrades);
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn start_records(
        mut self,
        matches: impl Fn(&Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.config.start.push(Arc::new(matches));
        self
    }

    /// Also writes a [start record](Self::start_records) of each stream, as soon as the head of its
    /// response is ready: an upgrade (`101`), a tunnel (`2xx` to `CONNECT`), and server-sent events
    /// (`text/event-stream`). Defaults to none.
    ///
    /// It has the status, the response fields that are written, and what the inner layers decided. A
    /// request that already has a start record has no second one.
    pub fn start_records_for_streams(mut self) -> Self {
        self.config.start_streams = true;
        self
    }

    /// Also writes a [start record](Self::start_records) of each request that is still running after this
    /// time. Defaults to none.
    ///
    /// It has what the inner layers have decided by then. A response whose client does not read it, and a
    /// handler that blocks its thread, are not polled: their start record is late or missing. The time is
    /// told by [`runtime`](Self::runtime).
    pub fn start_records_after(mut self, running: Duration) -> Self {
        self.config.start_after = Some(running);
        self
    }

    /// Sets the runtime whose timer [`start_records_after`](Self::start_records_after) uses. Defaults to the
    /// Tokio runtime that serves the request.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        self.config.runtime = Some(Arc::new(runtime));
        self
    }
}
