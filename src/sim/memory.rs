//! A simulator without sockets: connections are pipes, so that tokio's clock can stand still and jump. With a real socket
//! pending it would jump past what is under way.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::{cluster::Cluster, faults::Door, upgrade};
use crate::upstream::{BoxedIo, Dial, Transport, TransportError, connector::NotResolved};

/// The names of an in-memory simulator's hosts. Others cannot be resolved.
pub(super) const CROSSBAR: &str = "crossbar.sim";
pub(super) const BLACKHOLE: &str = "blackhole.sim";

/// How many bytes the client's side of a pipe takes without being read.
const RECEIVE_BUFFER: usize = 64 << 10;

/// Opens pipes to blackhole.
pub(super) struct Pipes(pub Arc<Cluster>);

impl Dial for Pipes {
    fn dial<'a>(&'a self, host: &'a str, _: u16) -> BoxFuture<'a, io::Result<BoxedIo>> {
        Box::pin(async move {
            let cluster = &self.0;
            if host != BLACKHOLE {
                return Err(io::Error::new(io::ErrorKind::NotFound, NotResolved));
            }
            let door = *cluster.faults.blackhole_door().borrow();
            if cluster.stop.is_cancelled() || door == Door::Closed {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let send_buffer = usize::try_from(cluster.settings.send_buffer).unwrap_or(usize::MAX);
            let (client, server) = tokio::io::duplex(send_buffer.saturating_add(RECEIVE_BUFFER));
            let connection = cluster.next_connection();
            match door {
                Door::Resets => return Err(io::ErrorKind::ConnectionReset.into()),
                Door::Hangs => {
                    let (stop, mut door) = (cluster.stop.clone(), cluster.faults.blackhole_door());
                    cluster.tasks.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            _ = door.wait_for(|door| *door != Door::Hangs) => {}
                        }
                        drop(server);
                    });
                }
                _ => {
                    // Each connection has a port of its own, as long as there are any.
                    let port = 1024 + u16::try_from(connection % 60_000).unwrap_or_default();
                    let peer = SocketAddr::from(([127, 0, 0, 1], port));
                    cluster.tasks.spawn(upgrade::serve(Arc::clone(cluster), connection, server, peer));
                }
            }
            Ok(Box::new(client) as BoxedIo)
        })
    }
}

/// Hands requests to Crossbar.
pub(super) struct Calls {
    pub cluster: Arc<Cluster>,
    pub router: Router,
}

impl Transport for Calls {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        Box::pin(async move {
            if request.uri().host() != Some(CROSSBAR) {
                return Err(TransportError::NotResolved);
            }
            let mut door = self.cluster.faults.crossbar_door();
            let state = *door.borrow();
            if self.cluster.stop.is_cancelled() || state == Door::Closed {
                return Err(TransportError::Refused);
            }
            match state {
                Door::Open => {}
                Door::Hangs => {
                    _ = door.wait_for(|door| *door != Door::Hangs).await;
                    return Err(TransportError::Broken);
                }
                Door::Resets | Door::Closed => return Err(TransportError::Broken),
            }
            let answer = self.router.clone().oneshot(request.map(Body::from));
            // The router itself cannot fail.
            let Ok(answer) = answer.await;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|_| TransportError::Broken)?;
            Ok(Response::from_parts(head, body.to_bytes()))
        })
    }
}
