//! API keys on Redis.

mod acknowledge;
mod receipts;
mod state;
mod store;

pub use self::receipts::Receipts;
pub(super) use self::state::ApiKeyNames;
