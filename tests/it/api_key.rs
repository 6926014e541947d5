//! What the api_key layer does, seen by a client.
