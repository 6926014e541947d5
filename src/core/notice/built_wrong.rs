//! Notices of invalid configurations that are built once.

use std::sync::atomic::AtomicBool;

use super::notice::once;
use crate::core::error::ConfigError;

/// Emits a notice of an invalid configuration that is built once.
pub(crate) fn built_wrong(error: &ConfigError) {
    once(&AtomicBool::new(false), || error.to_string());
}
