//! API keys: who calls.
