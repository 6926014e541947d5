//! Rate limits: how often.
