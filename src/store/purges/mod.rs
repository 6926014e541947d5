//! Purges, compared with entries when these are looked up.

mod cells;
mod name;
mod purges;
mod sketch;
pub(super) use self::{
    name::{DigestHasher, NAME_BYTES, Name, names_of},
    purges::{PurgeTable, Standing, StoredNames},
};
