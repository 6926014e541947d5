//! A Cluster: the assignment of slots to nodes, and changes in that assignment.

use std::{
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use redis::{RedisError, Value};
use tokio::sync::Notify;

use super::endpoint::Endpoint;
use crate::{
    core::{
        error::{StoreError, StoreErrorKind},
        time::Timestamp,
    },
    store::redis::{
        config::{
            address::Address,
            credentials::{Login, RedisCredentials},
        },
        connection::{
            error::Fault,
            ground::{Ground, together, within},
            node::Node,
            pass::{CallPermit, Pass},
            stats::{Outage, THE_CLUSTER},
        },
    },
};

/// The minimum interval between two topology queries.
const QUERY_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum time that calls wait for the first topology before they fail immediately.
const FIRST_MAX: Duration = Duration::from_millis(50);

/// The nodes of a Cluster. Each node has its own connection and circuit breaker, so an unavailable
/// node does not affect the slots of the other nodes.
pub(crate) struct Cluster {
    ground: Arc<Ground>,
    seeds: Vec<Address>,
    state: Mutex<ClusterState>,
    changed: Notify,
}

#[derive(Default)]
struct ClusterState {
    ranges: Arc<Vec<Range>>,
    // Nodes that have slots, and nodes that a redirection has named since.
    nodes: Vec<Arc<Node>>,
    is_asking: bool,
    asked_at: Option<Timestamp>,
    // The time since which the topology is unknown although it was queried.
    lost_since: Option<Timestamp>,
    is_told_down: bool,
    /// The error that calls receive while no node returns the topology.
    refusal: Option<StoreErrorKind>,
    is_closed: bool,
}

/// A range of slots, including the last slot, and the node of the range.
struct Range {
    first: u16,
    last: u16,
    node: Arc<Node>,
}

/// The topology that a node returns, which consists of slot ranges and the addresses of their
/// primaries.
type SlotRanges = Vec<(u16, u16, Address)>;

impl Cluster {
    pub(crate) fn new(seeds: Vec<Address>, ground: Arc<Ground>) -> Arc<Self> {
        Arc::new(Self {
            ground,
            seeds,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Admits a call for a slot.
    pub(crate) fn enter(&self, slot: u16) -> Result<CallPermit, StoreError> {
        let state = self.lock();
        let Some(node) = state.node_of(slot) else {
            let now = self.ground.clock.now();
            let is_lost = |since| now - since >= FIRST_MAX;
            if state.is_closed || state.lost_since.is_some_and(is_lost) {
                let kind = state.refusal;
                drop(state);
                self.ground.watch.refused.add_one();
                return Err(kind.unwrap_or(StoreErrorKind::Unavailable).into());
            }
            return Ok(CallPermit::Unknown);
        };
        drop(state);
        node.enter().map(CallPermit::Known)
    }

    /// Waits until the node of a slot is known, and then admits a call to that node.
    pub(crate) async fn find(self: &Arc<Self>, slot: u16) -> Result<Pass, StoreError> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let CallPermit::Known(pass) = self.enter(slot)? {
                return Ok(pass);
            }
            self.ask_around();
            changed.await;
        }
    }

    /// Admits a call to the node that a redirection specifies.
    pub(crate) fn follow(self: &Arc<Self>, error: &RedisError) -> Result<Pass, StoreError> {
        let unknown = || StoreError::from(StoreErrorKind::Unavailable);
        let (place, _) = error.redirect_node().ok_or_else(unknown)?;
        let (host, port) = place.rsplit_once(':').ok_or_else(unknown)?;
        let port = port.parse().map_err(|_| unknown())?;
        // A node that does not know its own address sends none.
        if host.is_empty() {
            self.ask_around();
            return Err(unknown());
        }
        let address = self.seeds[0].at(host, port);
        let node = self.node_at(&mut self.lock(), &address);
        node.enter()
    }

    /// Queries the topology in the background.
    pub(crate) fn ask_around(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        if state.ranges.is_empty() {
            state.lost_since.get_or_insert(self.ground.clock.now());
        }
        if !std::mem::replace(&mut state.is_asking, true) {
            drop(state);
            let asking = TopologyQuery {
                cluster: Arc::downgrade(self),
            };
            let task = asking.until_known(Arc::clone(&self.ground));
            self.ground.runtime.spawn(Box::pin(task));
        }
    }

    pub(crate) fn any_endpoint(&self) -> Endpoint {
        let number = getrandom::u32().unwrap_or_default() as usize;
        let mut up = self.nodes();
        up.retain(|node| node.is_up());
        if up.is_empty() {
            Endpoint::Member(self.seeds[number % self.seeds.len()].clone())
        } else {
            up[number % up.len()].endpoint().clone()
        }
    }

    /// Returns the credentials of the connections that serve calls.
    pub(crate) fn login(&self) -> &Login {
        self.seeds[0].login()
    }

    /// Authenticates the open connections to all nodes.
    pub(crate) async fn authenticate(&self, credentials: &RedisCredentials) -> Result<(), Fault> {
        let nodes = self.nodes();
        let all = together(nodes.iter().map(|node| node.authenticate(credentials))).await;
        all.into_iter().collect()
    }

    pub(crate) async fn close(&self) {
        let nodes = self.shut();
        for node in nodes {
            node.close().await;
        }
    }

    pub(crate) fn end(&self) {
        self.shut().iter().for_each(|node| node.end());
    }

    /// Returns the nodes, so that they can be used without holding the lock. A node that becomes
    /// unavailable takes its own lock first, and then this lock.
    fn nodes(&self) -> Vec<Arc<Node>> {
        self.lock().nodes.clone()
    }

    fn shut(&self) -> Vec<Arc<Node>> {
        let mut state = self.lock();
        (state.is_closed, state.refusal) = (true, None);
        state.ranges = Arc::default();
        let nodes = state.nodes.clone();
        drop(state);
        self.changed.notify_waiters();
        nodes
    }

    /// Queries one node after another. Returns `true` if a node returned the topology.
    async fn ask_each(self: &Arc<Self>) -> bool {
        let known: Vec<Address> = {
            let mut state = self.lock();
            state.asked_at = Some(self.ground.clock.now());
            let nodes = state.nodes.iter().map(|node| node.endpoint());
            nodes.filter_map(Endpoint::address).cloned().collect()
        };
        let mut last = None;
        for address in known.iter().chain(&self.seeds) {
            match ask(address, &self.ground).await {
                Ok(told) if !told.is_empty() => {
                    self.learn(told);
                    return true;
                }
                Ok(_) => {}
                Err(fault) => last = Some(Outage::of(address, &fault.error)),
            }
        }
        self.note_lost(last);
        false
    }

    /// Reports that no node returned the topology, with the error of the last node.
    fn note_lost(&self, last: Option<Outage>) {
        let mut state = self.lock();
        if state.ranges.is_empty() {
            let outage = last.unwrap_or_else(Outage::for_cluster).in_cluster();
            state.refusal = Some(outage.kind_of_calls());
            match std::mem::replace(&mut state.is_told_down, true) {
                true => self.ground.watch.still_down(outage),
                false => self.ground.watch.down(outage),
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn learn(self: &Arc<Self>, told: SlotRanges) {
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        let mut ranges: Vec<Range> = told
            .into_iter()
            .map(|(first, last, address)| Range {
                first,
                last,
                node: self.node_at(&mut state, &address),
            })
            .collect();
        ranges.sort_by_key(|range| range.first);
        let ranges = Arc::new(ranges);
        let has_slots = |node: &Arc<Node>| ranges.iter().any(|r| Arc::ptr_eq(&r.node, node));
        // Nodes without slots close once their calls in flight have completed.
        let (kept, left): (Vec<_>, Vec<_>) = state.nodes.drain(..).partition(has_slots);
        state.nodes = kept;
        let old = std::mem::replace(&mut state.ranges, ranges);
        (state.lost_since, state.refusal) = (None, None);
        if std::mem::take(&mut state.is_told_down) {
            self.ground.watch.up(THE_CLUSTER);
        }
        drop(state);
        drop((old, left));
        self.changed.notify_waiters();
    }

    fn node_at(self: &Arc<Self>, state: &mut ClusterState, address: &Address) -> Arc<Node> {
        let is_there = |node: &&Arc<Node>| {
            let there = node.endpoint().address();
            there.is_some_and(|there| there.is_same_place(address))
        };
        if let Some(node) = state.nodes.iter().find(is_there) {
            return Arc::clone(node);
        }
        let cluster = Arc::downgrade(self);
        let on_down = move || {
            if let Some(cluster) = cluster.upgrade() {
                cluster.ask_around();
            }
        };
        let endpoint = Endpoint::Member(address.clone());
        let node = Node::new(endpoint, Arc::clone(&self.ground), Some(Box::new(on_down)));
        state.nodes.push(Arc::clone(&node));
        node
    }

    fn lock(&self) -> MutexGuard<'_, ClusterState> {
        // The state is consistent whenever the lock is released, also by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClusterState {
    fn node_of(&self, slot: u16) -> Option<Arc<Node>> {
        let after = self.ranges.partition_point(|range| range.first <= slot);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        (slot <= range.last).then(|| Arc::clone(&range.node))
    }
}

/// The task that queries the topology. If the task's runtime ends first, the next call starts
/// another task.
struct TopologyQuery {
    cluster: Weak<Cluster>,
}

impl TopologyQuery {
    async fn until_known(self, ground: Arc<Ground>) {
        loop {
            let Some(wait) = self.cluster.upgrade().map(|cluster| cluster.next_in()) else {
                return;
            };
            if !wait.is_zero() {
                ground.runtime.sleep(wait).await;
            }
            match self.cluster.upgrade() {
                Some(cluster) => {
                    if cluster.ask_each().await || cluster.lock().is_closed {
                        return;
                    }
                }
                None => return,
            }
        }
    }
}

impl Drop for TopologyQuery {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.lock().is_asking = false;
        }
    }
}

impl Cluster {
    /// Returns the time until the next topology query.
    fn next_in(&self) -> Duration {
        let last = self.lock().asked_at;
        last.map_or(Duration::ZERO, |last| {
            QUERY_INTERVAL.saturating_sub(self.ground.clock.now() - last)
        })
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.nodes()).finish()
    }
}

/// Queries the topology from one node.
async fn ask(address: &Address, ground: &Ground) -> Result<SlotRanges, Fault> {
    let timeout = ground.connect_timeout;
    let mut wire = address.open(ground, timeout, None).await?;
    let mut question = redis::cmd("CLUSTER");
    question.arg("SLOTS");
    let limit = ground.runtime.sleep(timeout);
    let asked = within(limit, wire.ask(&question)).await;
    let reply = asked.ok_or_else(Fault::silent)?;
    read(reply.map_err(|error| Fault::for_setup(&error))?, address)
}

/// Parses the reply to `CLUSTER SLOTS`.
fn read(reply: Value, asked: &Address) -> Result<SlotRanges, Fault> {
    let corrupt = || Fault::corrupt("the reply is not a list of slots");
    let Value::Array(ranges) = reply else {
        return Err(corrupt());
    };
    ranges
        .into_iter()
        .map(|range| read_range(range, asked).ok_or_else(corrupt))
        .collect()
}

fn read_range(range: Value, asked: &Address) -> Option<(u16, u16, Address)> {
    let Value::Array(parts) = range else {
        return None;
    };
    let [Value::Int(first), Value::Int(last), Value::Array(main), ..] = &parts[..] else {
        return None;
    };
    let [host, Value::Int(port), ..] = &main[..] else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        _ => "",
    };
    // A node that does not know its own address is at the address of the query.
    let host = match host {
        "" | "?" => asked.host()?,
        host => host,
    };
    let address = asked.at(host, u16::try_from(*port).ok()?);
    Some((
        u16::try_from(*first).ok()?,
        u16::try_from(*last).ok()?,
        address,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::connection::tls::Tls;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let main = Value::Array(vec![host, Value::Int(port), bulk("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), main])
    }

    #[test]
    fn reads_slot_ranges_and_rejects_malformed_ones() {
        let asked = Address::parse("redis://10.0.0.1:7000", &Tls::default()).unwrap();
        let told = |ranges| read(Value::Array(ranges), &asked);
        let good = told(vec![
            range(0, 5, bulk("10.0.0.2"), 7_001),
            range(6, 9, Value::Nil, 7_002),
        ])
        .unwrap();
        let places: Vec<_> = good.iter().map(|(.., place)| place.to_string()).collect();
        assert_eq!(places, ["10.0.0.2:7001", "10.0.0.1:7002"]);
        for bad in [
            range(-1, 5, bulk("h"), 1),
            range(0, 70_000, bulk("h"), 1),
            range(0, 5, bulk("h"), 70_000),
            Value::Int(1),
            Value::Array(Vec::new()),
        ] {
            assert!(told(vec![bad]).is_err());
        }
        assert!(read(Value::Nil, &asked).is_err());
    }
}
