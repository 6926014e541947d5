//! The requests, inner services and exchanges of every measurement.

mod clients;
mod decisions;
mod exchange;
mod http;
mod origin;
pub mod redis;
mod requests;
pub mod trace;

pub use self::http::{serve, serve_hits};
pub use clients::next_client;
pub use decisions::{Key, bytes_per_key, decisions};
pub use exchange::{answered, drive, drive_hits};
pub use origin::{CachedOrigin, JsonOrigin, origin, router};
pub use requests::{CREDENTIAL, Requests};

use crate::harness::Case;

/// Returns the row of a bare `service_fn` for the cases with the prefix `name`.
pub fn bare_service_fn(name: &'static str) -> Case {
    Case::bare(name, drive(origin(), Requests::default()))
}

/// Returns the same row with requests without a key.
pub fn bare_anonymous(name: &'static str) -> Case {
    Case::bare(name, drive(origin(), Requests::anonymous()))
}

/// Returns the row of a bare axum `Router` for the cases with the prefix `name`.
pub fn bare_router(name: &'static str) -> Case {
    Case::bare(name, drive(router(), Requests::default()))
}
