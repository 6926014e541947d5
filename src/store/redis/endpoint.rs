//! What a node connects to: a fixed address, or wherever the Sentinels say that the server is.

use std::{fmt, future::Future};

use redis::{Cmd, Value, aio::MultiplexedConnection};

use super::{
    address::{Address, Driver, OnPush},
    config::Sentinels,
    fault::{Fault, Verdict},
    ground::{Ground, within},
};
use crate::error::{StoreError, StoreErrorKind};

/// What a node connects to.
#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    /// A server that must be one that may be written to. The key is written to find out.
    Server { address: Address, probe: Vec<u8> },
    /// The server that Sentinels name.
    Main {
        sentinels: Sentinels,
        probe: Vec<u8>,
    },
    /// A node of a Cluster.
    Member(Address),
}

impl Endpoint {
    /// Returns the address of a member of a Cluster.
    pub(super) fn address(&self) -> Option<&Address> {
        match self {
            Self::Member(address) => Some(address),
            Self::Server { .. } | Self::Main { .. } => None,
        }
    }

    /// Connects, and finds out whether the server serves.
    pub(super) async fn connect(
        &self,
        ground: &Ground,
    ) -> Result<(MultiplexedConnection, Driver), StoreError> {
        self.connect_with(ground, None).await.map_err(|f| f.error)
    }

    /// The same, for a connection on which the server speaks unasked.
    pub(super) async fn connect_with(
        &self,
        ground: &Ground,
        on_push: Option<OnPush>,
    ) -> Result<(MultiplexedConnection, Driver), Fault> {
        let queue_max = ground.calls_max;
        let (address, probe) = match self {
            Self::Server { address, probe } => (address.clone(), write(probe)),
            Self::Main { sentinels, probe } => (find_main(sentinels, ground).await?, write(probe)),
            Self::Member(address) => (address.clone(), redis::cmd("PING")),
        };
        let (connection, driver) = address.connect(queue_max, on_push).await?;
        check(connection, driver, &probe).await
    }
}

/// A write that leaves nothing behind: a replica refuses it.
fn write(key: &[u8]) -> Cmd {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(1).arg("PX").arg(1_000);
    set
}

/// Asks a new connection for a sign that the server serves.
async fn check(
    mut connection: MultiplexedConnection,
    mut driver: Driver,
    probe: &Cmd,
) -> Result<(MultiplexedConnection, Driver), Fault> {
    let answer = {
        let ask = connection.send_packed_command(probe);
        match drive(&mut driver, ask).await {
            Some(answer) => answer?,
            None => return Err(Fault::corrupt("the connection ended")),
        }
    };
    if let Value::ServerError(error) = answer {
        let fault = Fault::from(redis::RedisError::from(error));
        // A server that is full, or lets us write elsewhere only, is there all the same.
        if fault.verdict == Verdict::Lost {
            return Err(fault);
        }
    }
    Ok((connection, driver))
}

/// Runs a connection for as long as one answer on it takes.
pub(super) async fn drive<F: Future>(driver: &mut Driver, future: F) -> Option<F::Output> {
    within(driver, future).await
}

/// Asks one Sentinel after the other.
async fn find_main(sentinels: &Sentinels, ground: &Ground) -> Result<Address, Fault> {
    let count = sentinels.addresses.len();
    let first = getrandom::u32().unwrap_or_default() as usize;
    let mut last = Fault::corrupt("no Sentinel was asked");
    for number in 0..count {
        let sentinel = &sentinels.addresses[(first + number) % count];
        let limit = ground.runtime.sleep(ground.connect_deadline);
        match within(limit, ask_sentinel(sentinel, sentinels)).await {
            Some(Ok(found)) => return Ok(found),
            Some(Err(fault)) => last = fault,
            None => last = Fault::silent(),
        }
    }
    Err(last)
}

async fn ask_sentinel(sentinel: &Address, sentinels: &Sentinels) -> Result<Address, Fault> {
    let (mut connection, mut driver) = sentinel.connect(1, None).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(&sentinels.main);
    let ask = connection.send_packed_command(&question);
    let answer = match drive(&mut driver, ask).await {
        Some(answer) => answer?,
        None => return Err(Fault::corrupt("the Sentinel's connection ended")),
    };
    match redis::from_redis_value::<Option<(String, u16)>>(answer) {
        Ok(Some((host, port))) => Ok(sentinels.server.at(&host, port)),
        Ok(None) => Err(Fault {
            error: StoreError::with_source(
                StoreErrorKind::Misconfigured,
                "the Sentinels know no main server of this name",
            ),
            verdict: Verdict::Lost,
            refusal: None,
        }),
        Err(_) => Err(Fault::corrupt("the Sentinel's answer is no address")),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { address, .. } | Self::Member(address) => address.fmt(f),
            Self::Main { sentinels, .. } => write!(f, "main server `{}`", sentinels.main),
        }
    }
}
