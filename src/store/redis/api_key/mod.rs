//! API keys on Redis.

mod acknowledge;
mod receipts;
mod state;
mod store;

pub use self::receipts::InvalidationAcks;
pub(super) use self::state::ApiKeyNames;
