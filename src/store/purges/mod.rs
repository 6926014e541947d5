//! Records of purges. Lookups compare entries with these records.

mod cells;
mod name;
mod purges;
mod sketch;
pub(super) use self::{
    name::{DigestHasher, NAME_BYTES, Name, names_of},
    purges::{PurgeTable, Standing, StoredNames},
};
