//! In-memory API keys.

mod state;
mod store;

pub(super) use self::state::ApiKeyTable;
