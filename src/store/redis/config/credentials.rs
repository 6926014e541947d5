//! The credentials for connections, which are fixed or come from a provider.

use std::{
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use redis::Cmd;
use zeroize::Zeroizing;

use crate::{
    core::error::{BoxError, StoreErrorKind},
    store::redis::connection::{
        error::Fault,
        ground::{Ground, within},
    },
};

/// The username and password of a Redis user.
///
/// `Debug` prints only the type's name. The password is overwritten in memory when the credentials
/// are dropped.
#[derive(Clone)]
pub struct RedisCredentials {
    username: Option<String>,
    password: Zeroizing<String>,
}

impl RedisCredentials {
    /// Creates the credentials of an ACL user.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        let username = Some(username.into());
        Self {
            username,
            ..Self::password(password)
        }
    }

    /// Creates the credentials of the user `default`, whose password is the server's `requirepass`
    /// setting.
    pub fn password(password: impl Into<String>) -> Self {
        Self {
            username: None,
            password: Zeroizing::new(password.into()),
        }
    }

    pub(crate) fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    pub(crate) fn username_or_default(&self) -> &str {
        self.username().unwrap_or("default")
    }

    /// Returns the command that authenticates an open connection.
    pub(crate) fn command(&self) -> Cmd {
        let mut auth = redis::cmd("AUTH");
        if let Some(username) = self.username() {
            auth.arg(username);
        }
        auth.arg(self.bytes());
        auth
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.password.as_bytes()
    }
}

impl fmt::Debug for RedisCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisCredentials")
    }
}

type PendingCredentials = Pin<Box<dyn Future<Output = Result<RedisCredentials, BoxError>> + Send>>;

/// A function that returns the current credentials.
#[derive(Clone)]
pub(crate) struct Provider(Arc<dyn Fn() -> PendingCredentials + Send + Sync>);

impl Provider {
    pub(crate) fn new<F, Fut, E>(provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RedisCredentials, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self(Arc::new(move || {
            let asked = provider();
            Box::pin(async move { asked.await.map_err(Into::into) })
        }))
    }

    /// Calls the provider. A panic in the provider becomes an error.
    async fn ask(&self) -> Result<RedisCredentials, BoxError> {
        let panicked = |_| BoxError::from("it panicked");
        let mut asked = catch_unwind(AssertUnwindSafe(|| (self.0)())).map_err(panicked)?;
        poll_fn(
            |cx| match catch_unwind(AssertUnwindSafe(|| asked.as_mut().poll(cx))) {
                Ok(polled) => polled,
                Err(panic) => Poll::Ready(Err(panicked(panic))),
            },
        )
        .await
    }
}

/// The credentials for connections to a server.
#[derive(Clone)]
pub(crate) enum Login {
    /// The same credentials for each connection, or none.
    Fixed {
        username: Option<String>,
        password: Option<Zeroizing<String>>,
    },
    /// Credentials from a provider, which is called for each connection with this timeout.
    Provided(Provider, Duration),
}

impl Default for Login {
    fn default() -> Self {
        Self::Fixed {
            username: None,
            password: None,
        }
    }
}

impl Login {
    /// Returns the credentials for the next connection.
    ///
    /// # Errors
    ///
    /// Returns an error if the provider fails, panics or times out.
    pub(crate) async fn credentials(
        &self,
        ground: &Ground,
    ) -> Result<Option<RedisCredentials>, Fault> {
        match self {
            Self::Fixed { username, password } => Ok(password.clone().map(|password| {
                let username = username.clone();
                RedisCredentials { username, password }
            })),
            Self::Provided(provider, timeout) => {
                let limit = ground.runtime.sleep(*timeout);
                match within(limit, provider.ask()).await {
                    Some(asked) => asked.map(Some).map_err(|error| failed(&error)),
                    None => Err(timed_out(*timeout)),
                }
            }
        }
    }

    /// Returns `true` if the next connection may use different credentials.
    pub(super) fn is_provided(&self) -> bool {
        matches!(self, Self::Provided(..))
    }
}

fn failed(error: &BoxError) -> Fault {
    let words = format!("the credentials provider failed: {error}");
    Fault::before_any_call(StoreErrorKind::Unavailable, words)
}

fn timed_out(timeout: Duration) -> Fault {
    let words = format!("the credentials provider timed out after {timeout:?}");
    Fault::before_any_call(StoreErrorKind::Timeout, words)
}
