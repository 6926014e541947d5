//! Layers together, and the examples.

pub(super) mod config_checks;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod config_checks_redis;
pub(super) mod contract;
pub(super) mod cors;
pub(super) mod credits;
pub(super) mod front_door;
pub(super) mod gate;
pub(super) mod gateway;
pub(super) mod hyper_example;
pub(super) mod keys_example;
pub(super) mod optional_layers;
pub(super) mod reverse_proxy;
pub(super) mod tower_http;
