//! Records in web server log formats.

mod clf;
mod escape;
mod text_format;
mod text_lines;

pub use self::text_format::TextFormat;
pub use self::text_lines::TextLines;
