//! API keys in memory.

mod state;
mod store;

pub(super) use self::state::ApiKeyTable;
