//! Graceful shutdown: stop at a signal, finish running requests within a bound, then exit.
//!
//! A process manager ends a process by SIGTERM, a terminal by SIGINT (Ctrl-C). [`Shutdown`] listens for
//! both. The first signal asks the server to stop accepting connections and to finish the requests that
//! are running. The server has [`drain_timeout`](Shutdown::drain_timeout) to do so, 10 s by default:
//! an idle connection or a half-sent request cannot keep the process alive. A second signal exits the
//! process at once.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use portcullis::{
//!     TokioRuntime,
//!     access_log::{AccessLogLayer, sinks::LogQueue},
//!     shutdown::Shutdown,
//!     store::MemoryStore,
//! };
//! use tokio::net::TcpListener;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let log = LogQueue::builder(MemoryStore::new(), TokioRuntime).build()?;
//! let app = Router::new()
//!     .route("/", get("hello"))
//!     .layer(AccessLogLayer::new(log.clone()));
//! let listener = TcpListener::bind("127.0.0.1:3000").await?;
//!
//! let shutdown = Shutdown::on_signal()?;
//! let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.requested());
//! shutdown.drain(server).await.transpose()?;
//!
//! // The last records, once no request can write another.
//! log.flush().await;
//! # Ok(())
//! # }
//! ```
//!
//! With hyper, [`requested`](Shutdown::requested) ends the loop that accepts connections, and
//! `hyper_util::server::graceful::GracefulShutdown` asks the connections to end. Both belong into the
//! future that is drained; `examples/hyper.rs` is complete.
//!
//! # Order of the steps
//!
//! 1. [`drain`](Shutdown::drain) the server.
//! 2. Flush what the layers hold in memory: [`LogQueue::flush`](crate::access_log::sinks::LogQueue::flush),
//!    [`JsonLines::flush`](crate::access_log::sinks::JsonLines::flush),
//!    [`KeyRing::flush`](crate::api_key::KeyRing::flush).
//! 3. Close the store, such as by `RedisStore::close`.
//! 4. Return from `main`.
//!
//! A request that is still running after the timeout is dropped with the runtime. Its record has the
//! outcome `dropped` or `body_dropped`. [`JsonLines`](crate::access_log::sinks::JsonLines) writes it; a
//! [`LogQueue`](crate::access_log::sinks::LogQueue) cannot store it any more.

mod shutdown;
#[cfg(not(unix))]
#[path = "ctrl_c.rs"]
mod signals;
#[cfg(unix)]
#[path = "unix.rs"]
mod signals;
pub use self::shutdown::Shutdown;
