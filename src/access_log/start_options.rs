//! Builder options for start records.

use std::{sync::Arc, time::Duration};

use http::request::Parts;

use super::layer::AccessLogLayerBuilder;
use crate::core::runtime::Runtime;

impl AccessLogLayerBuilder {
    /// Writes a start record, in addition to the usual record, for requests that match the
    /// predicate. The start record is written before the inner service is called. Defaults to none.
    ///
    /// The usual record of a request is written when the request ends. If the process is killed,
    /// the requests in progress have only their start records. The `event.name` of a start record
    /// is `http.server.request.start`, and its `portcullis.outcome` is `running`. It has the same
    /// request id, trace ids and timestamp as the record at the end, but its own `log.record.uid`.
    /// The same redaction applies. A start record lacks the fields that the response and the inner
    /// layers add.
    ///
    /// The level function and [`min_level`](Self::min_level) also apply to start records. With
    /// [`sample_one_in`](Self::sample_one_in), the same digest of the request id selects both
    /// records, so each start record is followed by the record at the end. Observers and auditors
    /// do not receive start records. [`LogStats::started`](super::LogStats::started) counts them.
    /// Repeated calls add predicates, and a request needs to match only one of them. A predicate
    /// that panics matches nothing.
    ///
    /// ```
    /// use http::header::UPGRADE;
    /// use portcullis::access_log::AccessLogLayer;
    ///
    /// // All requests, or selected ones such as upgrades. See also `start_records_for_streams` and
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

    /// Writes a [start record](Self::start_records) for each stream when its response head is
    /// ready. This option is off by default. Streams are upgrades (`101`), tunnels (`2xx` to
    /// `CONNECT`) and server-sent events (`text/event-stream`).
    ///
    /// The start record contains the status, the recorded response headers, and the decisions of
    /// the inner layers. A request has at most one start record.
    pub fn start_records_for_streams(mut self) -> Self {
        self.config.start_streams = true;
        self
    }

    /// Writes a [start record](Self::start_records) for each request that is still running after
    /// this time. This option is off by default.
    ///
    /// The start record contains the decisions that the inner layers have made by then. The timer
    /// of [`runtime`](Self::runtime) is polled with the response. If the client does not read the
    /// response, or if the handler blocks its thread, the start record is late or missing.
    /// [`build`](Self::build) returns an error if there is no runtime.
    pub fn start_records_after(mut self, running: Duration) -> Self {
        self.config.start_after = Some(running);
        self
    }

    /// Sets the runtime whose timer [`start_records_after`](Self::start_records_after) uses.
    /// Defaults to the Tokio runtime that serves the request (feature `tokio`).
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        self.config.runtime = Some(Arc::new(runtime));
        self
    }
}
