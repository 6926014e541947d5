//! A proxy that fails.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// What a [`FaultProxy`] does with what passes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Passes it on.
    None,
    /// Passes each piece on this much later, either way.
    Delay(Duration),
    /// Keeps all of it, either way, and new connections too, until something else is set.
    BlackHole,
    /// Passes on what the client says, and throws away what the server does.
    HalfOpen,
    /// Ends connections, and each new one.
    Reset,
    /// Throws away so many pieces that the server says, each of them a reply if there is one call
    /// at a time; then passes on.
    Swallow(u32),
    /// Passes on this many pieces that the server sends on each connection, and throws away the rest.
    /// With one call at a time each piece is a reply; the first ones are those of the handshake.
    Replies(u32),
    /// Passes on what the server says byte by byte, each this much after the last.
    Slow(Duration),
    /// Passes on other bytes than the server said.
    Corrupt,
}

/// A TCP proxy before a server, which does to what passes what a network may do. It ends when it is
/// dropped, and its connections with it.
pub struct FaultProxy {
    addr: SocketAddr,
    line: Arc<ProxyInner>,
}

impl FaultProxy {
    /// Begins to pass on to a server.
    ///
    /// # Panics
    ///
    /// If the loopback has no free port.
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
                // A connection that ends at once is one that a network could have.
                let _ = client.and_then(|client| connect(&line, client, server));
            }
        });
        proxy
    }

    /// Sets what becomes of all that passes from now on.
    pub fn set(&self, fault: Fault) {
        let mut state = self.line.state();
        state.fault = fault;
        if fault == Fault::Reset {
            state.end_all();
        }
        drop(state);
        self.line.changed.notify_all();
    }

    /// Returns where the proxy listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the URL of the server behind, as it is reached through here.
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
        // The thread that accepts is woken by a last connection.
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

/// What all connections of a proxy share.
#[derive(Default)]
struct ProxyInner {
    state: Mutex<ProxyState>,
    changed: Condvar,
}

struct ProxyState {
    fault: Fault,
    ended: bool,
    /// One end of each connection, with the number that it leaves by.
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

    /// Returns what is to become of a piece, once it is to leave at all.
    fn fault(&self, is_answer: bool) -> io::Result<Fault> {
        let mut state = self.state();
        while state.fault == Fault::BlackHole && !state.ended {
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if state.refuses() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let fault = state.fault;
        if let (Fault::Swallow(left), true) = (fault, is_answer) {
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
    for (mut from, mut to, is_answer) in ways {
        let line = Arc::clone(line);
        thread::spawn(move || {
            let _ = pass(&line, &mut from, &mut to, is_answer);
            // Where one way ends, both do.
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
    is_answer: bool,
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
        match line.fault(is_answer)? {
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
                if !is_answer =>
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
