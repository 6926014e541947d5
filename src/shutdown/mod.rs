//! Graceful shutdown: stop at a signal, finish running requests within a bound, then exit.

mod shutdown;
#[cfg(not(unix))]
#[path = "ctrl_c.rs"]
mod signals;
#[cfg(unix)]
#[path = "unix.rs"]
mod signals;
pub use self::shutdown::Shutdown;
