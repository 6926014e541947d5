//! A TCP proxy that injects faults.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// A network fault that a [`FaultProxy`] injects. A piece is the result of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Forwards all bytes.
    None,
    /// Delays each piece in both directions.
    Delay(Duration),
    /// Holds back all bytes and all new connections until another fault is set.
    BlackHole,
    /// Forwards the client's bytes and discards the server's bytes.
    HalfOpen,
    /// Closes all connections, including new ones.
    Reset,
    /// Discards this number of pieces from the server and then forwards all bytes. If there is only
    /// one call at a time, each piece is a reply.
    Swallow(u32),
    /// Forwards this number of pieces from the server on each connection and discards the rest. If
    /// there is only one call at a time, each piece is a reply. The first replies belong to the
    /// handshake.
    Replies(u32),
    /// Forwards the server's bytes one by one, with this delay between bytes.
    Slow(Duration),
    /// Replaces the server's bytes with invalid bytes.
    Corrupt,
}

/// A TCP proxy that injects network faults between clients and a server. When this value is
/// dropped, the proxy stops and closes its connections.
pub struct FaultProxy {
    addr: SocketAddr,
    line: Arc<ProxyInner>,
}

impl FaultProxy {
    /// Starts a proxy that forwards all bytes to a server.
    ///
    /// # Panics
    ///
    /// Panics if the loopback interface has no free port.
    pub fn new(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let addr = listener.local_addr().expect("a listener has an address");
        let line = Arc::new(ProxyInner::default());
        let proxy = Self {
            addr,
            line: Arc::clone(&line),
        };
        thread::spawn(move || {
            for client in listener.incoming() {
                if line.state().ended {
                    return;
                }
                // A connection that fails immediately is a valid network fault.
                let _ = client.and_then(|client| connect(&line, client, server));
            }
        });
        proxy
    }

    /// Sets the fault that applies to all subsequent bytes.
    pub fn set(&self, fault: Fault) {
        let mut state = self.line.state();
        state.fault = fault;
        if fault == Fault::Reset {
            state.end_all();
        }
        drop(state);
        self.line.changed.notify_all();
    }

    /// Returns the address on which the proxy listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the Redis URL of the proxy, through which a client reaches the server.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        let mut state = self.line.state();
        state.ended = true;
        state.end_all();
        drop(state);
        self.line.changed.notify_all();
        // A last connection wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr);
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("addr", &self.addr)
            .field("fault", &self.line.state().fault)
            .finish_non_exhaustive()
    }
}

/// The state that all of a proxy's connections share.
#[derive(Default)]
struct ProxyInner {
    state: Mutex<ProxyState>,
    changed: Condvar,
}

struct ProxyState {
    fault: Fault,
    ended: bool,
    /// One end of each connection, with the number that is used to remove it.
    ends: Vec<(u64, TcpStream)>,
    next: u64,
}

impl Default for ProxyState {
    fn default() -> Self {
        Self {
            fault: Fault::None,
            ended: false,
            ends: Vec::new(),
            next: 0,
        }
    }
}

impl ProxyState {
    fn refuses(&self) -> bool {
        self.ended || self.fault == Fault::Reset
    }

    fn end_all(&mut self) {
        for (_, end) in self.ends.drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl ProxyInner {
    fn state(&self) -> MutexGuard<'_, ProxyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the fault that applies to a piece. Waits while bytes are held back.
    fn fault(&self, is_reply: bool) -> io::Result<Fault> {
        let mut state = self.state();
        while state.fault == Fault::BlackHole && !state.ended {
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if state.refuses() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let fault = state.fault;
        if let (Fault::Swallow(left), true) = (fault, is_reply) {
            state.fault = match left {
                0 | 1 => Fault::None,
                more => Fault::Swallow(more - 1),
            };
        }
        Ok(fault)
    }
}

fn connect(line: &Arc<ProxyInner>, client: TcpStream, server: SocketAddr) -> io::Result<()> {
    if line.state().refuses() {
        return Ok(());
    }
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut state = line.state();
    if state.refuses() {
        return Ok(());
    }
    let number = state.next;
    state.next += 1;
    state.ends.push((number, client.try_clone()?));
    drop(state);
    let ways = [
        (client.try_clone()?, server.try_clone()?, false),
        (server, client, true),
    ];
    for (mut from, mut to, is_reply) in ways {
        let line = Arc::clone(line);
        thread::spawn(move || {
            let _ = pass(&line, &mut from, &mut to, is_reply);
            // If one direction ends, both are closed.
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            line.state().ends.retain(|(own, _)| *own != number);
        });
    }
    Ok(())
}

fn pass(
    line: &ProxyInner,
    from: &mut TcpStream,
    to: &mut TcpStream,
    is_reply: bool,
) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    let mut pieces = 0;
    loop {
        let len = from.read(&mut piece)?;
        if len == 0 {
            return Ok(());
        }
        pieces += 1;
        let bytes = &mut piece[..len];
        match line.fault(is_reply)? {
            Fault::None | Fault::BlackHole | Fault::Reset => to.write_all(bytes)?,
            Fault::Delay(time) => {
                thread::sleep(time);
                to.write_all(bytes)?;
            }
            Fault::HalfOpen
            | Fault::Swallow(_)
            | Fault::Replies(_)
            | Fault::Slow(_)
            | Fault::Corrupt
                if !is_reply =>
            {
                to.write_all(bytes)?;
            }
            Fault::Replies(most) if pieces <= most => to.write_all(bytes)?,
            Fault::HalfOpen | Fault::Swallow(_) | Fault::Replies(_) => {}
            Fault::Slow(time) => {
                for byte in bytes.iter() {
                    thread::sleep(time);
                    to.write_all(&[*byte])?;
                }
            }
            Fault::Corrupt => {
                bytes.iter_mut().for_each(|byte| *byte ^= 0x15);
                to.write_all(bytes)?;
            }
        }
    }
}
