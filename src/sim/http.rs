//! Serves an axum router on a listener with tasks that have an owner.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{net::TcpListener, time::timeout};

use super::{node::Node, upgrade::PAUSE};

/// How long a request under way is waited for when the simulator stops.
const GRACE: Duration = Duration::from_millis(500);

/// Accepts connections until the node stops.
pub(super) async fn accept(node: Arc<Node>, listener: TcpListener, router: Router) {
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let service = TowerToHyperService::new(router.clone());
                    let connection =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    let stop = node.stop.clone();
                    node.tasks.spawn(async move {
                        tokio::pin!(connection);
                        tokio::select! {
                            _ = connection.as_mut() => {}
                            () = stop.cancelled() => {
                                connection.as_mut().graceful_shutdown();
                                _ = timeout(GRACE, connection).await;
                            }
                        }
                    });
                }
                // The client has gone, or there are no file descriptors left: neither ends the listener, and a pause keeps the
                // latter from turning into a busy loop.
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
}
