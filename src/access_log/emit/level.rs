//! How much a record matters.

/// How much a record matters, by the words and numbers of OpenTelemetry's log model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Of interest to who looks for something.
    Debug,
    /// As it should be, the client's mistakes included.
    Info,
    /// Somebody should know.
    Warn,
    /// The server failed.
    Error,
}

impl LogLevel {
    /// All levels, the one that matters most first.
    pub(crate) const ALL: [Self; 4] = [Self::Error, Self::Warn, Self::Info, Self::Debug];

    /// Returns the level's name, as `severity_text` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }

    /// Returns the level's number, as `severity_number` has it.
    pub const fn severity_number(self) -> u8 {
        match self {
            Self::Debug => 5,
            Self::Info => 9,
            Self::Warn => 13,
            Self::Error => 17,
        }
    }
}
