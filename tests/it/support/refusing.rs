//! A proxy before a Redis server that refuses some commands, as older servers and proxies do.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
};

/// The treatment of a command by the proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Treatment {
    /// Replies with this line.
    Reply(&'static str),
    /// Replies with this line to the first such command, and passes on the others.
    ReplyOnce(&'static str),
    /// Ends the connection.
    Close,
}

type Treatments = Arc<Mutex<Vec<(&'static str, Treatment)>>>;

/// A proxy, ended with the runtime of the test.
#[derive(Debug)]
pub(crate) struct Refusing {
    addr: SocketAddr,
    treatments: Treatments,
    commands: Arc<Mutex<Vec<String>>>,
}

impl Refusing {
    /// Starts a proxy on a free port.
    pub(crate) async fn before(
        server: SocketAddr,
        treatments: &[(&'static str, Treatment)],
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            addr: listener.local_addr().unwrap(),
            treatments: Arc::new(Mutex::new(treatments.to_vec())),
            commands: Arc::default(),
        };
        let (treatments, commands) = (proxy.treatments.clone(), proxy.commands.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (treatments, commands) = (treatments.clone(), commands.clone());
                tokio::spawn(pass_on(client, server, treatments, commands));
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Treats commands in another way from now on.
    pub(crate) fn set(&self, treatments: &[(&'static str, Treatment)]) {
        *self.treatments.lock().unwrap() = treatments.to_vec();
    }

    /// Returns how often a command arrived, in capital letters.
    pub(crate) fn calls_of(&self, command: &str) -> usize {
        let commands = self.commands.lock().unwrap();
        commands.iter().filter(|name| *name == command).count()
    }
}

async fn pass_on(
    client: TcpStream,
    server: SocketAddr,
    treatments: Treatments,
    commands: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let (from_client, to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await.ok()?.into_split();
    let to_client = Arc::new(tokio::sync::Mutex::new(to_client));
    let replies = Arc::clone(&to_client);
    let back = tokio::spawn(async move {
        let mut bytes = [0; 4_096];
        while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
            let mut to_client = replies.lock().await;
            if to_client.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
        let _ = replies.lock().await.shutdown().await;
    });
    let mut from_client = BufReader::new(from_client);
    while let Some((name, bytes)) = command(&mut from_client).await {
        let treatment = treatment(&treatments, &name);
        commands.lock().unwrap().push(name);
        match treatment {
            None => to_server.write_all(&bytes).await.ok()?,
            Some(Treatment::Reply(line) | Treatment::ReplyOnce(line)) => {
                let line = format!("{line}\r\n");
                to_client
                    .lock()
                    .await
                    .write_all(line.as_bytes())
                    .await
                    .ok()?;
            }
            Some(Treatment::Close) => break,
        }
    }
    back.abort();
    let _ = to_client.lock().await.shutdown().await;
    Some(())
}

fn treatment(treatments: &Treatments, name: &str) -> Option<Treatment> {
    let mut treatments = treatments.lock().unwrap();
    let at = treatments.iter().position(|(of, _)| *of == name)?;
    let (_, treatment) = treatments[at];
    if matches!(treatment, Treatment::ReplyOnce(_)) {
        treatments.remove(at);
    }
    Some(treatment)
}

/// Reads a command, and returns its name and its bytes.
async fn command(client: &mut BufReader<OwnedReadHalf>) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let words = number(client, &mut bytes).await?;
    let mut name = String::new();
    for word in 0..words {
        let len = number(client, &mut bytes).await?;
        let start = bytes.len();
        bytes.resize(start + len + 2, 0);
        client.read_exact(&mut bytes[start..]).await.ok()?;
        if word == 0 {
            name = String::from_utf8_lossy(&bytes[start..start + len]).to_uppercase();
        }
    }
    Some((name, bytes))
}

/// Reads a line such as `*2` or `$5`.
async fn number(client: &mut BufReader<OwnedReadHalf>, bytes: &mut Vec<u8>) -> Option<usize> {
    let start = bytes.len();
    client.read_until(b'\n', bytes).await.ok()?;
    let line = std::str::from_utf8(&bytes[start..]).ok()?.trim_end();
    line.get(1..)?.parse().ok()
}
