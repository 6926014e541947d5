//! Where records go.

use std::{fmt, sync::Arc};

use crate::access_log::{
    emit::{drop_counts::DropCounts, level::LogLevel},
    record::record::Record,
};

/// Receives the records of requests, one call for each record.
///
/// It is called where the request ends, on the thread that serves it: a sink that blocks delays the
/// request. [`JsonLines`](crate::access_log::sinks::JsonLines) writes lines, and a [`LogQueue`](crate::access_log::sinks::LogQueue) sends records
/// to a server, without delay. A sink that panics loses its record, never the request.
///
/// [Start records](crate::access_log::AccessLogLayerBuilder::start_records), which are opt-in, are calls of their own:
/// [`Record::is_start`] tells them apart.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, Record, Sink};
///
/// /// Tells of slow requests only.
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
    /// Takes one record.
    fn write(&self, record: &Record<'_>);

    /// Returns whether records of this level are taken at all.
    ///
    /// While no sink takes any, requests pass as if there were no access log: without a record, a
    /// name, and a response's `x-request-id`.
    fn is_enabled(&self, level: LogLevel) -> bool {
        let _ = level;
        true
    }

    /// Returns how many of the records that it took it has lost since, and why.
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
