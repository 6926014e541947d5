//! Observation of every request, including those whose record is not written.

use std::fmt;

use http::Method;

use super::drop_counts::DropCounts;
use crate::{
    access_log::record::record::Record,
    core::{audit::AuditEvent, record::StoreCall},
};

/// Receives every request that has a record, before records are sampled, aggregated or filtered by
/// level. An observer is intended for metrics.
///
/// Each call to [`on_request`](Self::on_request) is followed by exactly one call to
/// [`on_record`](Self::on_record), even if the request is dropped or panics.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// Called when a request arrives.
    fn on_request(&self, method: &Method);

    /// Called when a request ends. The record has its final level.
    fn on_record(&self, record: &Record<'_>);

    /// Called with the total numbers of lost records and lost audit events. The first call is made
    /// when the first request ends. Further calls are made whenever the numbers have changed.
    fn on_drop(&self, records: &DropCounts, audit_events: u64) {
        let _ = (records, audit_events);
    }

    /// Called when a [`LogQueue`](crate::access_log::sinks::LogQueue) that has this observer has
    /// called its store to append a batch. The layer of `call` is `access_log` for records and
    /// `audit` for audit events.
    fn on_store_call(&self, call: &StoreCall) {
        let _ = call;
    }

    /// Called when a [`LogQueue`](crate::access_log::sinks::LogQueue) that has this observer
    /// receives an audit event.
    fn on_audit(&self, event: &AuditEvent) {
        let _ = event;
    }
}
