//! The client's address, which is the peer's address or an address that trusted proxies forward.

mod address_source;
mod client_addr;
#[cfg(feature = "rate-limit")]
mod request_key;
mod resolver;
mod trusted_proxies;
#[cfg(feature = "access-log")]
mod unrecorded;

pub use self::client_addr::ClientAddr;
#[cfg(feature = "access-log")]
pub(crate) use self::resolver::peer_addr;
pub use self::resolver::{ClientAddrResolver, MissingClientAddrError, PeerAddr};
pub use self::trusted_proxies::{ForwardedHeader, TrustedProxies};
#[cfg(feature = "access-log")]
pub(crate) use self::unrecorded::report_unrecorded;
