//! The destination of records.

use std::{fmt, sync::Arc};

use crate::access_log::{
    emit::{drop_counts::DropCounts, level::LogLevel},
    record::record::Record,
};

/// Receives the records of requests, with one call per record.
///
/// A sink is called on the thread that serves the request, so a sink that blocks delays the
/// request. [`JsonLines`](crate::access_log::sinks::JsonLines) writes lines, and
/// [`LogQueue`](crate::access_log::sinks::LogQueue) sends records to a store. Neither delays the
/// request. If a sink panics, the record is lost, but the response is not affected.
///
/// [Start records](crate::access_log::AccessLogLayerBuilder::start_records), which are opt-in, are
/// passed in separate calls. [`Record::is_start`] returns `true` for start records.
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

    /// Returns `true` if the sink accepts records of this level. The default implementation returns
    /// `true`.
    ///
    /// While no sink accepts any level, requests pass as if there were no access log. They have no
    /// record and no request id, and their responses have no `x-request-id`.
    fn is_enabled(&self, level: LogLevel) -> bool {
        let _ = level;
        true
    }

    /// Returns the number of records that were lost after the sink accepted them, by reason. The
    /// default implementation returns zero for all reasons.
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
