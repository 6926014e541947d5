//! Suites that prove a store of anybody's: each promise that a layer relies on is a check here.
