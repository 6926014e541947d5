//! The target of a connection, which is a fixed address or the primary that Sentinels monitor.

use std::{borrow::Cow, fmt, time::Duration};

use redis::Cmd;

use crate::{
    core::error::StoreErrorKind,
    store::redis::{
        config::{address::Address, credentials::Login, servers::Sentinels},
        connection::{
            error::Fault,
            ground::{Ground, within},
            wire::Wire,
        },
    },
};

/// The target of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    /// A server that must accept writes. The probe writes a key to verify that the server does.
    Server { address: Address, probe: Vec<u8> },
    /// The primary that Sentinels monitor.
    Main {
        sentinels: Sentinels,
        probe: Vec<u8>,
    },
    /// A node in a Cluster.
    Member(Address),
}

impl Endpoint {
    /// Returns the address of a Cluster node.
    pub(crate) fn address(&self) -> Option<&Address> {
        match self {
            Self::Member(address) => Some(address),
            Self::Server { .. } | Self::Main { .. } => None,
        }
    }

    /// Returns the credentials of the connections that serve calls.
    pub(crate) fn login(&self) -> &Login {
        match self {
            Self::Server { address, .. } | Self::Member(address) => address.login(),
            Self::Main { sentinels, .. } => sentinels.server.login(),
        }
    }

    /// Opens a connection to a server that accepts commands.
    ///
    /// # Errors
    ///
    /// Returns an error if the credentials provider or the Sentinels fail, or if the connection
    /// fails or exceeds the timeout.
    pub(crate) async fn open(&self, ground: &Ground, timeout: Duration) -> Result<Wire, Fault> {
        let (address, probe) = match self {
            Self::Server { address, probe } => (Cow::Borrowed(address), write(probe)),
            Self::Main { sentinels, probe } => {
                let main = find_main(sentinels, ground).await?;
                (Cow::Owned(main), write(probe))
            }
            Self::Member(address) => (Cow::Borrowed(address), redis::cmd("PING")),
        };
        address.open(ground, timeout, Some(&probe)).await
    }
}

/// Returns a write command whose key expires. A replica rejects this command.
fn write(key: &[u8]) -> Cmd {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(1).arg("PX").arg(1_000);
    set
}

/// Queries one Sentinel after another for the address of the primary.
async fn find_main(sentinels: &Sentinels, ground: &Ground) -> Result<Address, Fault> {
    let count = sentinels.addresses.len();
    let first = getrandom::u32().unwrap_or_default() as usize;
    let mut last = Fault::before_any_call(StoreErrorKind::Unavailable, "no Sentinel is configured");
    for number in 0..count {
        let sentinel = &sentinels.addresses[(first + number) % count];
        match ask_sentinel(sentinel, sentinels, ground).await {
            Ok(found) => return Ok(found),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

async fn ask_sentinel(
    sentinel: &Address,
    sentinels: &Sentinels,
    ground: &Ground,
) -> Result<Address, Fault> {
    let timeout = ground.connect_timeout;
    let mut wire = sentinel.open(ground, timeout, None).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(&sentinels.main);
    let limit = ground.runtime.sleep(timeout);
    let asked = within(limit, wire.ask(&question)).await;
    let reply = asked.ok_or_else(Fault::silent)?;
    let reply = reply.map_err(|error| Fault::for_setup(&error))?;
    match redis::from_redis_value::<Option<(String, u16)>>(reply) {
        Ok(Some((host, port))) => Ok(sentinels.server.at(&host, port)),
        Ok(None) => Err(Fault::before_any_call(
            StoreErrorKind::Misconfigured,
            "the Sentinels know no primary of this name",
        )),
        Err(_) => Err(Fault::before_any_call(
            StoreErrorKind::Unavailable,
            "the Sentinel's reply is not an address",
        )),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { address, .. } | Self::Member(address) => address.fmt(f),
            Self::Main { sentinels, .. } => write!(f, "primary `{}`", sentinels.main),
        }
    }
}
