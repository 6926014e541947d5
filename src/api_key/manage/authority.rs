//! The authority behind a change, and the fields that an owner's administrator has set.

/// The authority behind the changes of a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    /// The service itself, which can make every change.
    Service,
    /// The owner of the keys, which can tighten the settings of the service but not lift them.
    Owner,
}

/// The fields of a record that an owner's administrator has set, as bits. The service has set all
/// other fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetByOwner(u8);

/// A field that both the service and the owner's administrators can set.
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

    /// Returns the fields of a new key that this authority creates.
    pub(super) fn created_by(authority: Authority) -> Self {
        match authority {
            Authority::Service => Self(0),
            Authority::Owner => Self(Self::ALL),
        }
    }

    /// Parses the result of [`bits`](Self::bits).
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
