//! The access log: one record for each request.
