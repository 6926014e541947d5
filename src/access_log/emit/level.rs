//! The level of a record.

/// The level of a record, with the names and numbers of the OpenTelemetry log model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LogLevel {
    /// Information that is only useful for debugging.
    Debug,
    /// Normal operation, including client errors.
    Info,
    /// A condition that requires attention.
    Warn,
    /// A server failure.
    Error,
}

impl LogLevel {
    /// All levels, most severe first.
    pub(crate) const ALL: [Self; 4] = [Self::Error, Self::Warn, Self::Info, Self::Debug];

    /// Returns the name of the level, as in `severity_text`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }

    /// Returns the number of the level, as in `severity_number`.
    pub const fn severity_number(self) -> u8 {
        match self {
            Self::Debug => 5,
            Self::Info => 9,
            Self::Warn => 13,
            Self::Error => 17,
        }
    }
}
