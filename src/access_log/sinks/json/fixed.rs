//! Members of JSON objects that few values determine: rendered once, and copied afterwards.

use std::sync::OnceLock;

use super::object::Object;

/// The members of each of `N` cases, by each naming convention.
pub(super) struct FixedMembers<const N: usize>([[OnceLock<Vec<u8>>; N]; 3]);

impl<const N: usize> FixedMembers<N> {
    pub(super) const fn new() -> Self {
        Self([const { [const { OnceLock::new() }; N] }; 3])
    }

    /// Appends the members of a case to an object. They are rendered for the first object.
    #[inline]
    pub(super) fn push(
        &self,
        object: &mut Object<'_>,
        case: usize,
        render: impl FnOnce(&mut Object<'_>),
    ) {
        let names = object.names;
        let members = self.0[names as usize][case].get_or_init(|| {
            let mut out = Vec::new();
            let mut object = Object {
                out: &mut out,
                names,
            };
            render(&mut object);
            out
        });
        object.out.extend_from_slice(members);
    }
}
