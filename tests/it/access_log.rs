//! What the access_log layer does, seen by a client.
