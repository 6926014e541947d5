//! Records in text formats of web servers.

mod clf;
mod escape;
mod text_format;
mod text_lines;

pub use self::text_format::TextFormat;
pub use self::text_lines::TextLines;
