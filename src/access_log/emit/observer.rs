//! Who sees every request, whether or not its record is written.

use std::fmt;

use http::Method;

use super::drop_counts::DropCounts;
use crate::{
    access_log::record::record::Record,
    core::{audit::AuditEvent, record::StoreCall},
};

/// Sees every request that the access log keeps a record of, before any record is sampled, folded
/// or left out for its level: for counting.
///
/// Each arrival is followed by exactly one end, also when the request is dropped or panics.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A request has arrived.
    fn on_request(&self, method: &Method);

    /// A request has ended. The record's level is what it is by default, or what the user's
    /// function says.
    fn on_record(&self, record: &Record<'_>);

    /// So many records were lost so far, by all sinks together, and so many audit events by the
    /// log's auditor. Said with the first request that ends, and then when it changes.
    fn on_drop(&self, records: &DropCounts, audit_events: u64) {
        let _ = (records, audit_events);
    }

    /// A [`LogQueue`](crate::access_log::sinks::LogQueue) that this observes has asked its store to keep a batch. The
    /// call's layer is `access_log` for records, and `audit` for audit events.
    fn on_store_call(&self, call: &StoreCall) {
        let _ = call;
    }

    /// A [`LogQueue`](crate::access_log::sinks::LogQueue) that this observes has received an audit event.
    fn on_audit(&self, event: &AuditEvent) {
        let _ = event;
    }
}
