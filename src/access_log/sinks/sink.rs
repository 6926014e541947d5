//! The destination of records.

use std::{fmt, sync::Arc};

use crate::access_log::{
    emit::{drop_counts::DropCounts, level::LogLevel},
    record::record::Record,
};

/// Receives the records of requests, one call per record.
///
/// It is called on the thread that serves the request: a sink that blocks delays the request.
/// [`JsonLines`](crate::access_log::sinks::JsonLines) writes lines and
/// [`LogQueue`](crate::access_log::sinks::LogQueue) sends records to a store, both without delay. A
/// sink that panics loses the record and does not affect the response.
///
/// [Start records](crate::access_log::AccessLogLayerBuilder::start_records), which are opt-in, are
/// separate calls, for which [`Record::is_start`] returns `true`.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, Record, Sink};
///
/// /// Reports slow requests only.
/// #[derive(Debug)]
/// struct Slow;
///
/// impl Sink for Slow {
///     fn write(&self, record: &Record<'_>) {
///         if record.duration().as_secs() >= 1 {
///             eprintln!("{} was slow", record.request_id());
///         }
///     }
/// }
///
/// let layer = AccessLogLayer::new(Slow);
/// # let _ = layer;
/// ```
pub trait Sink: fmt::Debug + Send + Sync + 'static {
    /// Receives one record.
    fn write(&self, record: &Record<'_>);

    /// Returns `true` if the sink accepts records of this level. Defaults to `true`.
    ///
    /// While no sink accepts any level, requests pass as if there were no access log: without a
    /// record, a request id, or `x-request-id` in responses.
    fn is_enabled(&self, level: LogLevel) -> bool {
        let _ = level;
        true
    }

    /// Returns the number of accepted records that were lost since, by reason. Defaults to zero.
    fn drop_counts(&self) -> DropCounts {
        DropCounts::default()
    }
}

impl<T: Sink + ?Sized> Sink for Arc<T> {
    fn write(&self, record: &Record<'_>) {
        (**self).write(record);
    }

    fn is_enabled(&self, level: LogLevel) -> bool {
        (**self).is_enabled(level)
    }

    fn drop_counts(&self) -> DropCounts {
        (**self).drop_counts()
    }
}
