//! Our rows, one file per suite.

pub mod cache;
pub mod cache_store;
pub mod http;
pub mod keys;
pub mod limits;
pub mod log;
pub mod purges;
pub mod redis;
pub mod stack;
