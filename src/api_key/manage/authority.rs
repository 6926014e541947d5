//! On whose behalf a key is changed, and who set which of its fields.

/// On whose behalf a manager makes its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    /// The service itself: it may make every change.
    Service,
    /// The owner of the keys: it may tighten what the service set, and not lift it.
    Owner,
}

/// The fields of a record that an administrator of its owner set, in bits. All others are the
/// service's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetByOwner(u8);

/// A field that the service and the owner's administrators can both set.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Field {
    Tier = 1,
    Scopes = 1 << 1,
    NotBefore = 1 << 2,
    ExpiresAt = 1 << 3,
    Constraints = 1 << 4,
    State = 1 << 5,
}

impl SetByOwner {
    const ALL: u8 = (1 << 6) - 1;

    /// Returns the fields of a key that this authority makes.
    pub(super) fn created_by(authority: Authority) -> Self {
        match authority {
            Authority::Service => Self(0),
            Authority::Owner => Self(Self::ALL),
        }
    }

    /// Reads what [`bits`](Self::bits) returned.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        (bits & !Self::ALL == 0).then_some(Self(bits))
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    pub(crate) fn has(self, field: Field) -> bool {
        self.0 & field as u8 != 0
    }

    pub(crate) fn set(&mut self, field: Field, by: Authority) {
        match by {
            Authority::Owner => self.0 |= field as u8,
            Authority::Service => self.0 &= !(field as u8),
        }
    }
}
