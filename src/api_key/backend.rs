//! Types for authors of key stores.

pub use super::{
    ring::change_feed::{ChangeNotifications, KeyChangeFeed},
    store::{KeyCount, KeyCreation, KeyUse},
};
