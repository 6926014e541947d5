//! Graceful shutdown: stop at a signal, complete running requests within a timeout, then exit.
//!
//! Process managers stop a process with SIGTERM, and terminals with SIGINT (Ctrl-C). [`Shutdown`]
//! listens for both. At the first signal, the server stops accepting connections and completes the
//! requests in flight. Draining takes at most the [`drain_timeout`](Shutdown::drain_timeout), 10 s
//! by default, so an idle connection or an incomplete request cannot keep the process running. A
//! second signal exits the process immediately.
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
//! // Write the last records, after all requests have completed.
//! log.flush().await;
//! # Ok(())
//! # }
//! ```
//!
//! With hyper, stop the accept loop when [`requested`](Shutdown::requested) completes. Then close
//! the connections with `hyper_util::server::graceful::GracefulShutdown`. Do both in the future
//! that is passed to [`drain`](Shutdown::drain); see `examples/hyper.rs`.
//!
//! # Order of the steps
//!
//! 1. [`drain`](Shutdown::drain) the server.
//! 2. Flush the buffers of the layers:
//!    [`LogQueue::flush`](crate::access_log::sinks::LogQueue::flush),
//!    [`JsonLines::flush`](crate::access_log::sinks::JsonLines::flush),
//!    [`KeyRing::flush`](crate::api_key::KeyRing::flush).
//! 3. Close the store, for example with `RedisStore::close`.
//! 4. Return from `main`.
//!
//! If a request is still running when the timeout elapses, the runtime drops the request at the end
//! of `main`. The request's record has the outcome `dropped` or `body_dropped`.
//! [`JsonLines`](crate::access_log::sinks::JsonLines) writes this record, but a
//! [`LogQueue`](crate::access_log::sinks::LogQueue) can no longer store it.

mod shutdown;
#[cfg(not(unix))]
#[path = "ctrl_c.rs"]
mod signals;
#[cfg(unix)]
#[path = "unix.rs"]
mod signals;
pub use self::shutdown::Shutdown;
