//! The notice of records without a client address.

use super::resolver::{MISSING_REPORTED, MissingClientAddrError};
use crate::core::{framework, notice};

/// Reports once that records lack the client address, unless a layer that needs the address has
/// reported it.
pub(crate) fn report_unrecorded() {
    notice::once(&MISSING_REPORTED, || {
        let route = match framework::READS_CONNECT_INFO {
            true => "",
            false => ", and with axum no `http.route`",
        };
        format!(
            "{MissingClientAddrError}, outside of the access log; until then, its records have no \
             `client.address`{route}; if clients have no address, as on a Unix socket, call \
             `AccessLogLayerBuilder::optional_client_addr`"
        )
    });
}
