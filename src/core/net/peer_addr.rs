//! A layer that inserts the peer address for servers other than axum.

use std::{
    any::type_name,
    fmt,
    net::SocketAddr,
    task::{Context, Poll},
};

use http::{Extensions, Request};
use tower::Service;
use tower_layer::Layer;

use crate::core::service_accessors::service_accessors;

use super::client_addr::PeerAddr;

/// A layer that inserts [`PeerAddr`] into each request. A function reads the address from the
/// request's extensions.
///
/// Each server stores the peer address in its own type. With the feature `axum`, axum's
/// `ConnectInfo<SocketAddr>` is read without this layer. For other servers, apply this layer
/// outside all other layers. The address is then available to rate limits by client address, to the
/// network constraints of keys, and to the access log.
///
/// A request is passed on unchanged if it already has a `PeerAddr`, or if the function returns
/// `None`.
///
/// # tonic
///
/// tonic's server inserts a `TcpConnectInfo`, even over TLS:
///
/// ```
/// # // tonic's type, without a dependency on tonic.
/// # mod tonic { pub mod transport { pub mod server {
/// #     #[derive(Clone)]
/// #     pub struct TcpConnectInfo(pub std::net::SocketAddr);
/// #     impl TcpConnectInfo {
/// #         pub fn remote_addr(&self) -> Option<std::net::SocketAddr> { Some(self.0) }
/// #     }
/// # } } }
/// use portcullis::{PeerAddr, net::PeerAddrLayer};
/// use tonic::transport::server::TcpConnectInfo;
///
/// let peer_addr = PeerAddrLayer::new(|extensions| {
///     extensions.get::<TcpConnectInfo>()?.remote_addr()
/// });
/// // tonic::transport::Server::builder().layer(peer_addr).layer(gate).add_service(..)
/// # use tower::{Layer, ServiceExt, service_fn};
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// # let peer = std::net::SocketAddr::from(([203, 0, 113, 9], 4711));
/// # let service = peer_addr.layer(service_fn(async |request: http::Request<()>| {
/// #     Ok::<_, std::convert::Infallible>(request.extensions().get::<PeerAddr>().copied())
/// # }));
/// # let mut request = http::Request::new(());
/// # request.extensions_mut().insert(TcpConnectInfo(peer));
/// # assert_eq!(service.oneshot(request).await, Ok(Some(PeerAddr(peer))));
/// # });
/// ```
#[derive(Clone, Copy)]
pub struct PeerAddrLayer<F> {
    read: F,
}

impl<F> PeerAddrLayer<F>
where
    F: Fn(&Extensions) -> Option<SocketAddr>,
{
    /// Creates a layer that uses this function to read the peer address.
    ///
    /// The function runs once for each request without a [`PeerAddr`].
    pub fn new(read: F) -> Self {
        Self { read }
    }
}

impl<S, F: Clone> Layer<S> for PeerAddrLayer<F> {
    type Service = PeerAddrService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        let read = self.read.clone();
        PeerAddrService { inner, read }
    }
}

impl<F> fmt::Debug for PeerAddrLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerAddrLayer")
            .field("read", &type_name::<F>())
            .finish()
    }
}

/// A service that inserts [`PeerAddr`] into each request. Created by [`PeerAddrLayer`].
#[derive(Clone, Copy)]
pub struct PeerAddrService<S, F> {
    inner: S,
    read: F,
}

service_accessors!(PeerAddrService<S, F>);

impl<S, F, B> Service<Request<B>> for PeerAddrService<S, F>
where
    S: Service<Request<B>>,
    F: Fn(&Extensions) -> Option<SocketAddr>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let extensions = request.extensions_mut();
        if extensions.get::<PeerAddr>().is_none()
            && let Some(addr) = (self.read)(extensions)
        {
            extensions.insert(PeerAddr(addr));
        }
        self.inner.call(request)
    }
}

impl<S: fmt::Debug, F> fmt::Debug for PeerAddrService<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerAddrService")
            .field("inner", &self.inner)
            .field("read", &type_name::<F>())
            .finish()
    }
}
