//! The shutdown of the Redis store.

use std::time::Duration;

use super::{close_rate_limits, connection::ground::within, store::RedisStore};

/// The timeout of each step of a shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

impl RedisStore {
    /// Returns leased tokens, reports deferred charges, and closes the connections.
    ///
    /// New calls fail, and calls in flight are awaited. Returning the tokens and reporting the
    /// charges together take at most five seconds. Closing the connections takes at most another
    /// five seconds.
    pub async fn close(&self) {
        let link = &self.shared.link;
        let limit = link.runtime().sleep(CLOSE_TIMEOUT);
        within(limit, close_rate_limits(&self.shared)).await;
        link.close(CLOSE_TIMEOUT).await;
    }
}
