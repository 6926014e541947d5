//! The settings that a gate applies to each layer that does not have its own.

use std::sync::Arc;

use super::checks::Stages;
use crate::{
    access_log::AccessLogLayer,
    api_key::ApiKeyLayer,
    cache::CacheLayer,
    core::{
        audit::{Audit, Auditor},
        error::ConfigError,
        http::responder::Responder,
        inherited_clock::LayerClock,
        net::client_addr::ClientAddrResolver,
    },
    rate_limit::RateLimitLayer,
};

/// The settings that the gate applies to each layer that does not have its own.
#[derive(Clone, Debug, Default)]
pub(super) struct GateSettings {
    pub(super) auditor: Option<Arc<dyn Auditor>>,
    pub(super) client_addr: Option<ClientAddrResolver>,
    pub(super) clock: Option<LayerClock>,
    pub(super) responder: Option<Responder>,
}

impl GateSettings {
    /// Applies each setting to the layers that do not have their own.
    pub(super) fn apply(&self, stages: &Stages) -> Result<(), ConfigError> {
        if let Some(clock) = &self.clock {
            stages.adopt_clock(clock)?;
        }
        if let Some(auditor) = &self.auditor {
            stages.adopt_auditor(auditor);
        }
        if let Some(resolver) = &self.client_addr {
            stages.adopt_client_addr(resolver);
        }
        if let Some(responder) = &self.responder {
            stages.adopt_responder(responder);
        }
        Ok(())
    }
}

impl Stages {
    fn adopt_clock(&self, clock: &LayerClock) -> Result<(), ConfigError> {
        let is_late = |in_time: Option<bool>| in_time == Some(false);
        let log = self.access_log.as_ref().map(|log| log.adopt_clock(clock));
        if is_late(log) {
            return Err(too_late("access_log", "AccessLogLayer::builder"));
        }
        let keys = self.api_keys.as_ref().map(|keys| keys.adopt_clock(clock));
        if is_late(keys) {
            return Err(too_late("api_keys", "KeyRing::builder"));
        }
        let cache = self.cache.as_ref().map(|cache| cache.adopt_clock(clock));
        if is_late(cache) {
            return Err(too_late("cache", "CacheLayer::secure"));
        }
        Ok(())
    }

    fn adopt_auditor(&self, auditor: &Arc<dyn Auditor>) {
        let log = self.access_log.iter().map(AccessLogLayer::audit);
        let keys = self.api_keys.iter().map(ApiKeyLayer::audit);
        let others = self
            .limits()
            .map(RateLimitLayer::audit)
            .chain(self.api_keys.iter().map(ApiKeyLayer::ring_audit))
            .chain(self.cache.iter().map(CacheLayer::audit));
        // Rejected callers are reported once: by the log, which masks their addresses, or by the
        // keys if there is no log. The same layer reports notices.
        let has_log = self.access_log.is_some();
        let mut audits = log.chain(keys.filter(|_| !has_log)).chain(others);
        if let Some(first) = audits.next()
            && Audit::adopt(first, auditor)
        {
            first.forward_notices();
        }
        for other in audits {
            other.adopt(auditor);
        }
    }

    fn adopt_client_addr(&self, resolver: &ClientAddrResolver) {
        if let Some(log) = &self.access_log {
            log.adopt_client_addr(resolver);
        }
        if let Some(keys) = &self.api_keys {
            keys.adopt_client_addr(resolver);
        }
    }

    fn adopt_responder(&self, responder: &Responder) {
        self.limits()
            .for_each(|limits| limits.adopt_responder(responder));
        if let Some(keys) = &self.api_keys {
            keys.adopt_responder(responder);
        }
    }

    fn limits(&self) -> impl Iterator<Item = &RateLimitLayer> {
        self.by_address.iter().chain(&self.by_identity)
    }
}

fn too_late(layer: &'static str, builder: &str) -> ConfigError {
    ConfigError::new(
        "clock",
        format_args!("set after `{layer}` was in use"),
        "it has used the system clock already, and would mix two times",
    )
    .fix(format!(
        "call `clock` on `{builder}` instead, or build the gate before the first use"
    ))
}
