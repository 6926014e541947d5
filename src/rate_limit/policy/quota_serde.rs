//! Serialization of quotas as text for configuration files.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use super::{quota::Quota, quota_text::Quotas};
use crate::core::error::ConfigError;

impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Quotas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Quotas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err = ConfigError>> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quota such as `100/minute`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_serializes_as_text() {
        let quota: Quota = serde_json::from_str("\"10 per 1s burst 20\"").unwrap();
        assert_eq!(quota, Quota::per_second(10).burst(20));
        assert_eq!(
            serde_json::to_string(&quota).unwrap(),
            "\"10/second burst 20\""
        );
        let quotas: Quotas = serde_json::from_str("\"5/10s; 1000/day\"").unwrap();
        assert_eq!(
            serde_json::to_string(&quotas).unwrap(),
            "\"5/10s; 1000/day\""
        );
    }

    #[test]
    fn a_text_that_is_no_quota_is_an_error_of_the_file() {
        let error = serde_json::from_str::<Quota>("\"ten a day\"").unwrap_err();
        assert!(error.to_string().contains("`ten a day`"));
        assert!(serde_json::from_str::<Quota>("10").is_err());
    }
}
