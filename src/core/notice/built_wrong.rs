//! Notices about invalid configurations that are built only once.

use std::sync::atomic::AtomicBool;

use super::notice::once;
use crate::core::error::ConfigError;

/// Emits a notice about an invalid configuration that is built only once.
pub(crate) fn built_wrong(error: &ConfigError) {
    once(&AtomicBool::new(false), || error.to_string());
}
