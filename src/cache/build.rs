//! Construction of the layer: checks the options and builds the configuration.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use http::{HeaderName, header::CACHE_CONTROL};

use super::{
    builder::CacheLayerBuilder,
    config::{Config, PurgeCounts},
    entry::{
        jitter::{self, Jitter},
        key::KeyMaker,
    },
    fill::{budget::Budget, empty_body::EmptyBodies},
    flight::{single_flight::Flights, storable::StorableMemory},
    http::{
        cache_control::Targeted, cache_status::CacheName, field_names::FieldNames, profile::Rules,
        storability::is_never_stored,
    },
    layer::CacheLayer,
    lookup::{backoff::Backoffs, reloads::Reloads},
    policy::policy::CachePolicy,
    store::{CacheStore, DEFAULT_MAX_VARIANTS},
};
use crate::core::{
    audit::Audit,
    error::ConfigError,
    inherited_clock::InheritedClock,
    layer_order::{LayerKind, Placement},
    notice, runtime,
    store_api::{store_monitor::StoreWatch, timeout::Deadline},
};

/// The default store timeout of a request.
const DEADLINE: Duration = Duration::from_millis(25);
/// The timeout of store writes. No request waits for one for longer than
/// [`max_wait`](CacheLayerBuilder::max_wait).
const KEPT_WITHIN: Duration = Duration::from_secs(10);

impl CacheLayerBuilder {
    pub(super) fn new(store: impl CacheStore, rules: Rules) -> Self {
        Self {
            store: Arc::new(store),
            rules,
            policy: None,
            policy_with: None,
            namespace: String::new(),
            name: Some("portcullis".to_owned()),
            clock: InheritedClock::default(),
            runtime: runtime::ambient(),
            deadline: Deadline::after(DEADLINE),
            max_variants: DEFAULT_MAX_VARIANTS,
            max_fill_bytes: 32 << 20,
            fill_timeout: Duration::from_secs(60),
            retain_stale_for: Duration::from_secs(3_600),
            jitter: Jitter::default(),
            max_waiters: 1_024,
            max_wait: Duration::from_secs(5),
            failure_backoff: (Duration::from_secs(1), Duration::from_secs(30)),
            refresh_timeout: Duration::from_secs(30),
            empty_bodies: EmptyBodies::default(),
            reloads: (10, Duration::from_secs(10)),
            shows_key: false,
            max_finish_bytes: 256 << 10,
            credential_headers: Vec::new(),
            list_headers: Vec::new(),
            targeted_fields: Vec::new(),
            audit: Audit::default(),
        }
    }

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] in these cases:
    ///
    /// - A field name, the name for `Cache-Status` or a targeted field is invalid.
    /// - A limit or timeout that must be positive is zero.
    /// - `jitter_percent` exceeds 50.
    /// - The first pause of `failure_backoff` exceeds the second.
    pub fn build(mut self) -> Result<CacheLayer, ConfigError> {
        if let Some(name) = &self.name {
            checked_name(name)?;
        }
        let list_headers = self.read_field_names()?;
        self.check_bounds()?;
        self.check_backoff()?;
        self.report_policy();
        Ok(CacheLayer {
            config: Arc::new(self.into_config(list_headers)),
        })
    }

    /// Parses the field names of the options. Returns those whose value is a list.
    fn read_field_names(&mut self) -> Result<FieldNames, ConfigError> {
        for name in &self.credential_headers {
            let name = field_name("credential_header", name)?;
            self.rules.credential_headers.push(name);
        }
        let list_headers = self.list_headers.iter();
        let list_headers = list_headers.map(|name| field_name("list_header", name));
        let list_headers = list_headers.collect::<Result<FieldNames, _>>()?;
        self.rules.targeted = target_list(&self.targeted_fields)?;
        Ok(list_headers)
    }

    fn check_bounds(&self) -> Result<(), ConfigError> {
        if self.jitter.percent > jitter::PERCENT_MAX {
            let problem = "freshness lifetimes would be shortened by more than half";
            return Err(
                ConfigError::new("jitter_percent", self.jitter.percent, problem)
                    .fix("set at most 50; 10 is enough to spread expirations"),
            );
        }
        let zero = [
            ("max_body_bytes", self.rules.max_body_bytes == 0),
            ("max_fill_bytes", self.max_fill_bytes == 0),
            ("fill_timeout", self.fill_timeout.is_zero()),
            ("max_variants", self.max_variants == 0),
            ("refresh_timeout", self.refresh_timeout.is_zero()),
            ("store_timeout", self.deadline.is_zero()),
        ];
        if let Some((option, _)) = zero.into_iter().find(|(_, zero)| *zero) {
            return Err(ConfigError::new(option, 0, "it must be greater than zero")
                .fix("set a positive value, or drop the call to use the default"));
        }
        Ok(())
    }

    fn check_backoff(&self) -> Result<(), ConfigError> {
        if self.failure_backoff.0 > self.failure_backoff.1 {
            let (initial, max) = self.failure_backoff;
            let problem = "the initial pause exceeds the maximum";
            return Err(ConfigError::new(
                "failure_backoff",
                format_args!("{initial:?}, {max:?}"),
                problem,
            )
            .fix("pass the shorter one first; an initial pause of zero disables it"));
        }
        Ok(())
    }

    fn into_config(self, list_headers: FieldNames) -> Config {
        let keys = KeyMaker::new(
            self.store.keys(),
            &self.namespace,
            self.rules.normalize_preferences,
        )
        .list_headers(list_headers)
        .target_list(&self.rules.targeted);
        let has_timeout = self.store.has_timeout();
        let mut keeping = self.deadline.clone();
        keeping.set(Some(KEPT_WITHIN));
        Config {
            keys,
            store: self.store,
            rules: self.rules,
            policy: self.policy,
            policy_with: self.policy_with,
            clock: self.clock,
            runtime: self.runtime,
            name: self.name.map(CacheName::new),
            max_variants: self.max_variants,
            retain_stale_for: self.retain_stale_for,
            jitter: self.jitter,
            filling: Arc::new(Budget::new(self.max_fill_bytes, self.fill_timeout)),
            purges: PurgeCounts::default(),
            flights: Arc::new(Flights::new(self.max_waiters)),
            storable: StorableMemory::default(),
            backoffs: Backoffs::new(self.failure_backoff.0, self.failure_backoff.1),
            refresh_timeout: self.refresh_timeout,
            empty_bodies: self.empty_bodies,
            max_wait: self.max_wait,
            reloads: Reloads::new(self.reloads.0, self.reloads.1),
            shows_key: self.shows_key,
            max_finish_bytes: self.max_finish_bytes,
            order: Default::default(),
            finishing: AtomicUsize::new(0),
            placement: Placement::new(LayerKind::Cache, true),
            probes: Arc::default(),
            watch: StoreWatch::new("cache", self.audit.clone()),
            deadline: self.deadline.beside(has_timeout),
            keeping,
            audit: self.audit,
        }
    }

    /// Reports a default policy that lists a status that is never stored.
    fn report_policy(&self) {
        let mut statuses = self.policy.iter().flat_map(CachePolicy::statuses);
        if let Some(status) = statuses.find(|status| is_never_stored(*status)) {
            let problem = "a response with this status depends on the fields of one request and is never \
                 stored";
            notice::built_wrong(
                &ConfigError::new("cache_status_code", status.as_u16(), problem)
                    .fix("remove the call of `CachePolicy::cache_status_code`"),
            );
        }
    }
}

/// Parses the field name that an option received.
fn field_name(option: &'static str, name: &str) -> Result<HeaderName, ConfigError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        ConfigError::new(option, name, "it is not a valid field name")
            .fix("use letters, digits and dashes")
    })
}

/// Parses the target list.
fn target_list(names: &[String]) -> Result<Vec<Targeted>, ConfigError> {
    let mut list: Vec<Targeted> = Vec::with_capacity(names.len());
    for name in names {
        let refused = |problem: &str| {
            ConfigError::new("targeted_field", name, problem)
                .fix("use the name of a targeted field, such as `CDN-Cache-Control`")
        };
        let field = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| refused("it is not a valid field name"))?;
        if field == CACHE_CONTROL {
            return Err(refused(
                "the cache reads this field whenever no targeted field applies",
            ));
        }
        let field = Targeted::of(field);
        if !list.contains(&field) {
            list.push(field);
        }
    }
    Ok(list)
}

/// Checks that a name is a valid token (RFC 9110) of at most 64 bytes.
fn checked_name(name: &str) -> Result<(), ConfigError> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let has_letter_first = name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    if has_letter_first && name.len() <= 64 && name.bytes().all(letter) {
        return Ok(());
    }
    Err(ConfigError::new(
        "name",
        name,
        "it is not a valid cache name for `Cache-Status`",
    )
    .fix("use a letter, followed by up to 63 letters, digits, dashes, dots or underscores"))
}

impl fmt::Debug for CacheLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayerBuilder")
            .field("rules", &self.rules)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
