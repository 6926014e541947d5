//! The Redis keys of the log streams.

use std::{fmt, time::Duration};

use crate::{
    access_log::LogStream, core::store_api::store_key::StoreKeys,
    store::redis::connection::client::Link,
};

/// The time for which a stream is retained after its last entry.
const ACCESS_FOR: Duration = Duration::from_secs(7 * 86_400);
const AUDIT_FOR: Duration = Duration::from_secs(400 * 86_400);

/// The Redis keys of the streams.
pub(crate) struct LogStreams {
    access: Vec<u8>,
    audit: Vec<u8>,
}

impl LogStreams {
    pub(crate) fn new(link: &Link, _: &StoreKeys) -> Self {
        Self {
            access: link.name("log:access"),
            audit: link.name("log:audit"),
        }
    }

    /// Returns the key of a stream and its retention time.
    pub(super) fn trail(&self, trail: LogStream) -> (&[u8], Duration) {
        match trail {
            LogStream::Access => (&self.access, ACCESS_FOR),
            LogStream::Audit => (&self.audit, AUDIT_FOR),
        }
    }
}

impl fmt::Debug for LogStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogStreams")
    }
}
