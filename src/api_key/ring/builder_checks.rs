//! Checks of the key ring options.

use std::time::Duration;

use super::builder::KeyRingBuilder;
use crate::{
    api_key::{authenticate::lookup::RECORDS_FOR_MAX, key::checksum_tag::KeyTags},
    core::error::ConfigError,
};

impl KeyRingBuilder {
    pub(super) fn check_memory(&self) -> Result<(), ConfigError> {
        match self.memory.records_for {
            Some(too_long) if too_long > RECORDS_FOR_MAX => Err(ConfigError::new(
                "key_cache_ttl",
                format_args!("{too_long:?}"),
                "a revoked key remains accepted for this long; the maximum is 10s",
            )
            .fix("reduce it to 10 seconds or less")),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn check_pepper(&self) -> Result<(), ConfigError> {
        match (&self.pepper, self.unpeppered) {
            (None, false) => Err(ConfigError::new(
                "pepper",
                "not set",
                "without a pepper, a writer of the store can create keys",
            )
            .fix("call `pepper`, or `without_pepper` to accept the risk")),
            (Some(pepper), true) => Err(ConfigError::new(
                "without_pepper",
                format_args!("called together with pepper {}", pepper.id()),
                "the two calls exclude each other",
            )
            .fix("drop one of them, or use `previous_pepper` for the pepper")),
            (Some(_), false) | (None, true) => Ok(()),
        }
    }

    pub(super) fn check_flush(&self) -> Result<(), ConfigError> {
        if let Some((interval, _)) = &self.flush
            && *interval < Duration::from_secs(1)
        {
            return Err(ConfigError::new(
                "flush_every",
                format_args!("{interval:?}"),
                "it must be at least 1s, so that a flush covers many requests",
            )
            .fix("set 30 to 60 seconds"));
        }
        Ok(())
    }

    pub(super) fn check_seal(&self) -> Result<(), ConfigError> {
        match self.seals && self.pepper.is_none() {
            true => Err(ConfigError::new(
                "seal_records",
                "called without a pepper",
                "seals are computed under the pepper",
            )
            .fix("call `pepper`")),
            false => Ok(()),
        }
    }

    pub(super) fn check_deadlines(&self) -> Result<(), ConfigError> {
        if self.deadline.is_zero() {
            return Err(
                ConfigError::new("store_timeout", "0ns", "it must be greater than zero")
                    .fix("set some tens of milliseconds, or call `without_store_timeout`"),
            );
        }
        if self.patience.is_zero() {
            return Err(
                ConfigError::new("manager_timeout", "0ns", "it must be greater than zero")
                    .fix("set some seconds"),
            );
        }
        Ok(())
    }

    /// Returns the tags of the ring, if it has any.
    pub(super) fn check_tags(&self) -> Result<Option<KeyTags>, ConfigError> {
        match &self.tag {
            Some(current) => Ok(Some(KeyTags {
                current: current.clone(),
                previous: self.previous_tags.clone(),
                checksums_too: self.checksums_too,
            })),
            None if self.previous_tags.is_empty() && !self.checksums_too => Ok(None),
            None => Err(ConfigError::new(
                "tag_secret",
                "not set",
                "`previous_tag_secret` and `accept_untagged_keys` require a current tag",
            )
            .fix("call `tag_secret`, or drop the other calls")),
        }
    }
}
