//! Cache entries: keys, contents and serialized form.

pub(super) mod codec;
#[cfg(feature = "compression")]
pub(super) mod compression;
pub(super) mod entry;
pub(super) mod header_set;
pub(super) mod jitter;
pub(super) mod key;
pub(super) mod normal_form;
pub(super) mod packing;
pub(super) mod rerouting;
