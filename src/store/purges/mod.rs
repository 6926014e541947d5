//! Purges, compared with entries when these are looked up.

mod cells;
mod purges;
mod sketch;
pub(super) use self::purges::{
    DigestHasher, NAME_BYTES, Name, Purges, Standing, StoredNames, names_of,
};
