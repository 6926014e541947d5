//! What the cache layer does, seen by a client.
