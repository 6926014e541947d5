//! The parts of keys that only the author of a store needs.

pub use super::{
    ring::change_feed::{ChangeNotifications, KeyChangeFeed},
    store::{KeyCount, KeyCreation, KeyUse},
};
