//! The cache: answers without the handler.
