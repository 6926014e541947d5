//! The specification of a new key.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    api_key::record::{
        constraints::Constraints, invalid::InvalidKeySpec, record::KeyRecord, scopes::is_scope,
    },
    core::{allowance::Allowance, time::Timestamp},
};

const OWNER_LEN_MAX: usize = 256;
const NAME_LEN_MAX: usize = 256;
const TIER_LEN_MAX: usize = 64;
const SCOPES_MAX: usize = 64;
const METADATA_MAX: usize = 64;
/// The total size of names and values.
const METADATA_BYTES_MAX: usize = 4_096;

/// The specification of a new key.
///
/// ```
/// use std::time::Duration;
/// use portcullis::api_key::NewKey;
///
/// let new = NewKey::new("acme")
///     .name("continuous integration")
///     .tier("pro")
///     .scopes(["data.read", "data.write"])
///     .expires_in(Duration::from_secs(90 * 24 * 60 * 60));
/// # let _ = new;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct NewKey {
    pub(crate) owner: String,
    pub(crate) environment: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) tier: Option<String>,
    pub(crate) credits: Option<Allowance>,
    pub(crate) limit: Option<Allowance>,
    pub(crate) scopes: Vec<String>,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) expiry: Expiry,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) constraints: Constraints,
}

/// The expiry of a new key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expiry {
    Never,
    At(Timestamp),
    In(Duration),
}

impl Expiry {
    pub(crate) fn from(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::At(at) => Some(at),
            Self::In(duration) => Some(now + duration),
        }
    }
}

impl NewKey {
    /// Creates the specification of a key for this owner, without scopes and without an expiry.
    ///
    /// The owner must be 1 to 256 bytes long.
    pub fn new(owner: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            environment: None,
            name: None,
            tier: None,
            credits: None,
            limit: None,
            scopes: Vec::new(),
            not_before: None,
            expiry: Expiry::Never,
            metadata: BTreeMap::new(),
            constraints: Constraints::new(),
        }
    }

    /// Sets the environment of the key. Defaults to the first environment of the ring.
    pub fn environment(mut self, environment: impl Into<String>) -> Self {
        self.environment = Some(environment.into());
        self
    }

    /// Sets the display name, which must be 1 to 256 bytes long. Defaults to none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the tier that selects the key's limits. The tier must be 1 to 64 bytes long. Defaults
    /// to none.
    pub fn tier(mut self, tier: impl Into<String>) -> Self {
        self.tier = Some(tier.into());
        self
    }

    /// Sets the credits, an allowance per period that the key shares with the keys that replace it.
    /// A rate limiter that is configured to use credits enforces them. Defaults to none.
    pub fn credits(mut self, credits: Allowance) -> Self {
        self.credits = Some(credits);
        self
    }

    /// Sets a limit that replaces the limit of the tier. A rate limiter that is configured to use
    /// the limits of keys enforces it. Defaults to none.
    pub fn limit(mut self, limit: Allowance) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Adds scopes to the key. A key can have at most 64 scopes. Defaults to none.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.scopes.extend(scopes.into_iter().map(Into::into));
        self
    }

    /// Sets the time before which the key is not accepted. Defaults to none.
    pub fn not_before(mut self, from: Timestamp) -> Self {
        self.not_before = Some(from);
        self
    }

    /// Sets the time from which the key is no longer accepted. Defaults to none.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.expiry = Expiry::At(at);
        self
    }

    /// Sets the time to live of the key, counted from its creation. Defaults to no expiry.
    pub fn expires_in(mut self, duration: Duration) -> Self {
        self.expiry = Expiry::In(duration);
        self
    }

    /// Restricts the networks, methods and origins from which the key can be used. Defaults to no
    /// restrictions.
    pub fn constraints(mut self, constraints: Constraints) -> Self {
        self.constraints = constraints;
        self
    }

    /// Adds a metadata entry, which inner layers can read from the [`Identity`](crate::Identity).
    ///
    /// A key can have at most 64 entries, whose names and values can have at most 4096 bytes in
    /// total.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }
}

/// Sorts a record's scopes and validates the record.
pub(super) fn check_record(record: &mut KeyRecord) -> Result<(), InvalidKeySpec> {
    let problem = "must be 1 to 256 bytes long";
    check_len("owner", &record.owner, OWNER_LEN_MAX, problem)?;
    if let Some(name) = &record.name {
        check_len("name", name, NAME_LEN_MAX, problem)?;
    }
    if let Some(tier) = &record.tier {
        check_len("tier", tier, TIER_LEN_MAX, "must be 1 to 64 bytes long")?;
    }
    check_scopes(&mut record.scopes)?;
    check_metadata(&record.metadata)?;
    record.constraints.check()
}

fn check_len(
    field: &'static str,
    value: &str,
    max_bytes: usize,
    problem: &'static str,
) -> Result<(), InvalidKeySpec> {
    if (1..=max_bytes).contains(&value.len()) {
        return Ok(());
    }
    Err(InvalidKeySpec::new(field, problem))
}

fn check_scopes(scopes: &mut Vec<String>) -> Result<(), InvalidKeySpec> {
    let invalid = |problem| InvalidKeySpec::new("scopes", problem);
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.len() > SCOPES_MAX {
        return Err(invalid("has more than 64 entries"));
    }
    if !scopes.iter().all(|scope| is_scope(scope)) {
        return Err(invalid(
            "has an entry that is not 1 to 128 visible ASCII characters without quotes and \
             backslashes",
        ));
    }
    Ok(())
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), InvalidKeySpec> {
    let len = |(name, value): (&String, &String)| name.len() + value.len();
    let bytes: usize = metadata.iter().map(len).sum();
    if metadata.len() > METADATA_MAX || bytes > METADATA_BYTES_MAX {
        let problem = "has more than 64 entries or 4096 bytes";
        return Err(InvalidKeySpec::new("metadata", problem));
    }
    Ok(())
}
