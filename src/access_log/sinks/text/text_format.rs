//! Web server log formats.

/// A web server log format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TextFormat {
    /// The Common Log Format: `%h %l %u %t "%r" %>s %b`.
    Common,
    /// The Combined Log Format: the Common Log Format and `"%{Referer}i" "%{User-Agent}i"`.
    #[default]
    Combined,
}
