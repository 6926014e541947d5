//! What the rate_limit layer does, seen by a client.
