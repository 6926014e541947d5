//! The checks of a ring's options.

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
                "a revoked key could live on for as long",
            )
            .fix("give 10 seconds at most")),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn check_pepper(&self) -> Result<(), ConfigError> {
        match (&self.pepper, self.unpeppered) {
            (None, false) => Err(ConfigError::new(
                "pepper",
                "not set",
                "without one, whoever can write to the store can make keys",
            )
            .fix("give one to `pepper`, or call `without_pepper` to do without")),
            (Some(pepper), true) => Err(ConfigError::new(
                "without_pepper",
                format_args!("called beside pepper {}", pepper.id()),
                "there is a pepper, and there is none",
            )
            .fix("drop one of the two, or make it a `previous_pepper`")),
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
                "the store would be told of hardly more than one request at a time",
            )
            .fix("give 30 to 60 seconds"));
        }
        Ok(())
    }

    pub(super) fn check_seal(&self) -> Result<(), ConfigError> {
        match self.seals && self.pepper.is_none() {
            true => Err(ConfigError::new(
                "seal_records",
                "called without a pepper",
                "a seal that anybody can make seals nothing",
            )
            .fix("give a pepper")),
            false => Ok(()),
        }
    }

    pub(super) fn check_deadlines(&self) -> Result<(), ConfigError> {
        if self.deadline.is_zero() {
            return Err(
                ConfigError::new("store_timeout", "0ns", "no server answers in no time")
                    .fix("give some dozens of milliseconds, or call `without_store_timeout`"),
            );
        }
        if self.patience.is_zero() {
            return Err(
                ConfigError::new("manager_timeout", "0ns", "no server answers in no time")
                    .fix("give some seconds"),
            );
        }
        Ok(())
    }

    /// Returns the tags of the ring's keys, if they have tags.
    pub(super) fn check_tags(&self) -> Result<Option<KeyTags>, ConfigError> {
        match &self.tag {
            Some(current) => Ok(Some(KeyTags {
                current: current.clone(),
                former: self.former_tags.clone(),
                checksums_too: self.checksums_too,
            })),
            None if self.former_tags.is_empty() && !self.checksums_too => Ok(None),
            None => Err(ConfigError::new(
                "keyed_tag",
                "not set",
                "a former one is named, or that there was none",
            )
            .fix("give the tag that new keys get, or name no former ones")),
        }
    }
}
