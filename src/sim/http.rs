//! Serves an axum router on a connection.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{net::TcpStream, time::timeout};

use super::cluster::Cluster;

/// How long a request under way is waited for when the simulator stops.
const GRACE: Duration = Duration::from_millis(500);

/// Serves until the client has gone or the cluster stops.
pub(super) async fn serve(cluster: Arc<Cluster>, stream: TcpStream, router: Router) {
    let service = TowerToHyperService::new(router);
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = cluster.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            _ = timeout(GRACE, connection).await;
        }
    }
}
