//! Empty request bodies, for a GET that is repeated.

use std::{
    any::{Any, TypeId},
    fmt,
};

use bytes::Bytes;
use http_body_util::{Empty, Full};

use crate::core::framework;

/// Creates an empty body of one type.
type MakeEmpty = fn() -> Box<dyn Any>;

/// The types of request bodies that the cache can create empty.
#[derive(Clone, Default)]
pub(crate) struct EmptyBodies {
    registered: Vec<(TypeId, MakeEmpty)>,
}

impl EmptyBodies {
    /// Adds a type.
    pub(crate) fn register<B: Default + 'static>(&mut self) {
        self.registered
            .push((TypeId::of::<B>(), || Box::new(B::default())));
    }

    /// Returns `true` if an empty body of this type can be created.
    pub(crate) fn can_make<B: 'static>(&self) -> bool {
        let wanted = TypeId::of::<B>();
        let known = [
            TypeId::of::<Full<Bytes>>(),
            TypeId::of::<Empty<Bytes>>(),
            TypeId::of::<String>(),
        ];
        known.contains(&wanted)
            || framework::body_type() == Some(wanted)
            || self.registered.iter().any(|(own, _)| *own == wanted)
    }

    /// Returns an empty body of this type.
    pub(crate) fn make<B: 'static>(&self) -> Option<B> {
        let registered = || {
            let mut registered = self.registered.iter();
            let (_, make) = registered.find(|(own, _)| *own == TypeId::of::<B>())?;
            cast(make())
        };
        registered()
            .or_else(|| cast(Box::new(Full::<Bytes>::default())))
            .or_else(|| cast(Box::new(Empty::<Bytes>::default())))
            .or_else(|| cast(Box::new(String::new())))
            .or_else(|| cast(framework::empty_body()?))
    }
}

fn cast<B: 'static>(body: Box<dyn Any>) -> Option<B> {
    body.downcast().ok().map(|body| *body)
}

impl fmt::Debug for EmptyBodies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmptyBodies")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Own(#[expect(dead_code, reason = "no other type is like it")] u8);

    #[test]
    fn known_and_registered_types_can_be_made_and_others_not() {
        let mut bodies = EmptyBodies::default();
        assert!(bodies.can_make::<Full<Bytes>>() && bodies.make::<Full<Bytes>>().is_some());
        assert!(bodies.can_make::<Empty<Bytes>>() && bodies.make::<Empty<Bytes>>().is_some());
        assert!(bodies.can_make::<String>() && bodies.make::<String>().is_some());
        assert!(!bodies.can_make::<Own>() && bodies.make::<Own>().is_none());
        bodies.register::<Own>();
        assert!(bodies.can_make::<Own>() && bodies.make::<Own>().is_some());
    }
}
