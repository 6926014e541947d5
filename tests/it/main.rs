//! The behaviour of the layers, proved from outside.
#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn tasks and start servers"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access_log;
#[cfg(feature = "axum")]
mod access_log_axum;
mod access_log_fields;
mod access_log_layers;
#[cfg(feature = "metrics")]
mod access_log_metrics;
mod access_log_queue;
mod access_log_sampling;
mod access_log_secrets;
mod access_log_server;
mod access_log_starts;
#[cfg(feature = "test-util")]
mod access_log_store;
mod access_log_traces;
mod access_log_writer;
mod api_key;
#[cfg(feature = "admin")]
mod api_key_admin;
#[cfg(feature = "admin")]
mod api_key_admin_owner;
#[cfg(feature = "admin")]
mod api_key_admin_races;
mod api_key_answers;
mod api_key_audit;
#[cfg(all(feature = "admin", feature = "metrics", feature = "tracing"))]
mod api_key_canary;
#[cfg(feature = "test-util")]
mod api_key_conformance;
mod api_key_foreign;
mod api_key_forgery;
mod api_key_guesses;
mod api_key_manager;
mod api_key_pipeline;
mod api_key_threats;
mod audit;
mod cache;
mod cache_attacks;
mod cache_bounds;
mod cache_collapse;
#[cfg(feature = "compression")]
mod cache_compression;
#[cfg(feature = "test-util")]
mod cache_conformance;
mod cache_differential;
#[cfg(feature = "encryption")]
mod cache_encryption;
mod cache_endings;
mod cache_failing_origins;
mod cache_final_responses;
mod cache_flow;
mod cache_jitter;
mod cache_leaks;
#[cfg(feature = "axum")]
mod cache_nest;
mod cache_oracle;
mod cache_oracle_origin;
mod cache_parts;
mod cache_policy;
mod cache_posts;
mod cache_purges;
mod cache_refresh;
mod cache_revalidation;
mod cache_shared_store;
mod cache_streaming;
mod cache_target;
mod cache_targeted;
mod cache_ttl;
#[cfg(feature = "axum")]
mod cache_unstorable;
mod cache_validation;
mod config_checks;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod config_checks_redis;
mod contract;
mod credits;
mod deadline;
mod gate;
mod gateway;
mod house;
mod hyper_example;
mod keys_example;
mod notices;
mod notices_lines;
#[cfg(feature = "tracing")]
mod notices_tracing;
mod outside_tokio;
mod peer_addr;
mod rate_limit;
#[cfg(feature = "axum")]
mod rate_limit_axum;
mod rate_limit_brownout;
mod rate_limit_change;
mod rate_limit_chosen;
#[cfg(feature = "test-util")]
mod rate_limit_conformance;
mod rate_limit_extremes;
mod rate_limit_failure;
mod rate_limit_fields;
mod rate_limit_penalty;
mod rate_limit_queue;
mod rate_limit_regressions;
mod rate_limit_settle;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_batches;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_cache;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_cluster;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_cluster_faults;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_conformance;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_counting;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_credentials;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_faults;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_faults_layers;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_gate;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_keys;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_logs;
#[cfg(all(feature = "encryption", feature = "redis", feature = "test-util"))]
mod redis_origins;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_outages;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_outside_tokio;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_protocol;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_rate_limit;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_refusals;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_scripts;
#[cfg(all(feature = "redis", feature = "shutdown", feature = "test-util"))]
mod redis_shutdown;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_slow;
#[cfg(all(feature = "redis", feature = "test-util"))]
mod redis_tiered;
#[cfg(all(feature = "redis-tls", feature = "test-util"))]
mod redis_tls;
mod reverse_proxy;
#[cfg(feature = "shutdown")]
mod shutdown;
mod support;
mod tower_http;
