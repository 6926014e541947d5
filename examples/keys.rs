//! A command line for a `KeyManager`: creates, lists, changes and checks keys.
//!
//! ```text
//! cargo run --example keys
//! > create acme pro data.read,data.write
//! ```
//!
//! The keys are in memory and end with the process. `help` lists the commands. To store the keys on
//! Redis, build with `--features redis` and set `REDIS_URL`, `STORE_SECRET` and `PEPPER` (at least
//! 32 bytes each).

use std::{
    convert::Infallible,
    env,
    error::Error,
    io::{self, BufRead, Write},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use portcullis::{
    AuditEvent, Auditor, ResponseBody,
    api_key::{
        ApiKeyLayer, ApiKeyStore, GeneratedKey, KeyManager, KeyQuery, KeyRing, KeyUpdate, NewKey,
        Pepper,
        record::{KeyState, ListedKey},
    },
    outcome::AuthOutcome,
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

/// Writes audit events to the terminal. A service passes its log queue instead.
#[derive(Debug)]
struct Stderr;

impl Auditor for Stderr {
    fn audit(&self, event: &AuditEvent) {
        eprintln!("audit: {event:?}");
    }
}

const HELP: &str = "\
create OWNER [TIER] [SCOPE,SCOPE..]   create a key and show it once
list [OWNER]                          list keys
tier ID TIER                          change the tier of a key
rotate ID [HOURS]                     replace a key; the previous one is valid for HOURS (default 0)
disable ID | enable ID                disable or enable a key
revoke ID [REASON]                    revoke a key permanently
leaked KEY                            revoke a key that was leaked
check KEY                             authenticate a request with a key
quit                                  exit";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // In production, read the pepper from a secret manager. With another pepper all keys are
    // invalid.
    let (store, pepper) = match env::var("REDIS_URL") {
        Ok(url) => on_redis(url)?,
        Err(_) => (Arc::new(MemoryStore::new()) as _, Pepper::random(1)),
    };
    let ring = KeyRing::builder("demo", store)
        .pepper(pepper)
        .count_uses()
        .auditor(Stderr)
        .build()?;
    let manager = KeyManager::new(&ring).acting_as("the command line");
    println!("{HELP}");
    for line in prompted() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["quit"] {
            break;
        }
        if let Err(error) = run(&ring, &manager, &words).await {
            println!("error: {error}");
        }
    }
    // Flush the use counts.
    ring.flush().await?;
    Ok(())
}

type StoreAndPepper = (Arc<dyn ApiKeyStore>, Pepper);

/// Returns the store on Redis and the pepper of its keys.
#[cfg(feature = "redis")]
fn on_redis(url: String) -> Result<StoreAndPepper, Box<dyn Error>> {
    use portcullis::store::{RedisConfig, RedisStore, StoreKeys};

    let secret = |name: &str| {
        env::var(name).map_err(|_| format!("{name} is not set; REDIS_URL requires it"))
    };
    let keys = StoreKeys::from_secret(secret("STORE_SECRET")?.as_bytes())?;
    let config = RedisConfig::single(url).api_key_timeout(Duration::from_secs(2));
    let store = RedisStore::new(config, keys)?;
    Ok((Arc::new(store), Pepper::new(1, secret("PEPPER")?)?))
}

#[cfg(not(feature = "redis"))]
fn on_redis(_: String) -> Result<StoreAndPepper, Box<dyn Error>> {
    Err("REDIS_URL requires the feature `redis`; build with `--features redis`, or unset it".into())
}

/// Returns the lines of stdin, with a prompt before each.
fn prompted() -> impl Iterator<Item = io::Result<String>> {
    let mut lines = io::stdin().lock().lines();
    std::iter::from_fn(move || {
        print!("> ");
        io::stdout().flush().ok()?;
        lines.next()
    })
}

async fn run(ring: &KeyRing, manager: &KeyManager, words: &[&str]) -> Result<(), Box<dyn Error>> {
    match words {
        [] => {}
        ["create", owner, rest @ ..] => {
            let key = manager.create(new_key(owner, rest)).await?;
            show(&key);
        }
        ["list"] => list(ring, manager, KeyQuery::all()).await?,
        ["list", owner] => list(ring, manager, KeyQuery::for_owner(*owner)).await?,
        ["tier", id, tier] => {
            let update = KeyUpdate::new().tier(*tier);
            let key = manager.update(id.parse()?, update).await?;
            println!("{} has tier {tier}", key.display());
        }
        ["rotate", id, hours @ ..] => {
            let hours: u64 = hours.first().map_or(Ok(0), |hours| hours.parse())?;
            let overlap = Duration::from_secs(hours * 3_600);
            show(&manager.rotate(id.parse()?, overlap).await?);
        }
        ["disable", id] => {
            manager.disable(id.parse()?, "by hand").await?;
        }
        ["enable", id] => {
            manager.enable(id.parse()?).await?;
        }
        ["revoke", id, reason @ ..] => {
            manager.revoke(id.parse()?, &reason.join(" ")).await?;
        }
        ["leaked", key] => match manager.report_leaked(key).await? {
            Some(key) => println!("{} is revoked", key.display()),
            None => println!("no such key"),
        },
        ["check", key] => println!("{}", check(ring, key).await?),
        _ => println!("{HELP}"),
    }
    Ok(())
}

fn new_key(owner: &str, rest: &[&str]) -> NewKey {
    let mut new = NewKey::new(owner);
    if let Some(tier) = rest.first() {
        new = new.tier(*tier);
    }
    match rest.get(1) {
        Some(scopes) => new.scopes(scopes.split(',')),
        None => new,
    }
}

fn show(key: &GeneratedKey) {
    println!("id:  {}", key.id());
    println!("key: {}", key.expose_secret());
    println!("The key is shown only once.");
}

async fn list(
    ring: &KeyRing,
    manager: &KeyManager,
    mut query: KeyQuery,
) -> Result<(), Box<dyn Error>> {
    ring.flush().await?;
    loop {
        let page = manager.list(query.clone()).await?;
        page.keys.iter().for_each(print_listed);
        match page.next {
            Some(next) => query = query.after(next),
            None => return Ok(()),
        }
    }
}

fn print_listed(listed: &ListedKey) {
    let key = &listed.record;
    let state = match key.state() {
        KeyState::Active if key.rotated_to().is_some() => "rotated",
        KeyState::Active => "active",
        KeyState::Disabled(_) => "disabled",
        KeyState::Revoked(_) => "revoked",
        _ => "unknown",
    };
    let scopes: Vec<&str> = key.scopes().collect();
    println!(
        "{}  {:<10} {:<10} {state:<9} {:>6} uses  {}",
        key.id(),
        key.owner(),
        key.tier().unwrap_or("-"),
        listed.uses,
        scopes.join(","),
    );
}

/// Sends a request with this key through the layer, and returns its decision.
async fn check(ring: &KeyRing, key: &str) -> Result<String, Box<dyn Error>> {
    let layer = ApiKeyLayer::builder(ring).build()?;
    let service = layer.layer(service_fn(respond));
    let request = Request::builder().header("x-api-key", key).body(())?;
    let response: Response<ResponseBody<String>> = service.oneshot(request).await?;
    Ok(match response.extensions().get::<AuthOutcome>() {
        Some(AuthOutcome::Denied { reason, .. }) => {
            format!("{}: {}", response.status(), reason.as_str())
        }
        Some(other) => format!("{}: {}", response.status(), other.as_str()),
        None => format!("{}: accepted", response.status()),
    })
}

async fn respond(_: Request<()>) -> Result<Response<String>, Infallible> {
    Ok(Response::new(String::new()))
}
