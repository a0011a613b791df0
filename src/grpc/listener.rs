//! The accept loop. A gateway has to answer for each connection: how many there are, and that all of them end in time.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use futures_util::future::join;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config,
    ops::drain::Drain,
    proto::admin_service_server::AdminService,
    telemetry::{metrics::Metrics, throttle::Throttle},
};

use super::{
    Server, connection,
    services::{NewServicesError, Services},
};

/// The pause after accepting failed for want of resources (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections to the operators' listener at most.
const OPERATOR_CONNECTIONS: usize = 100;
/// One warning of each kind in this time, however often it happens.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

impl Server {
    /// Accepts and serves until it drains, and follows the [drain](crate::ops::drain) to its end: health says NOT_SERVING
    /// from its beginning; once streams are to end there are no more connections, each one is told to go away, each
    /// stream gets `Draining` and the status UNAVAILABLE. Returns when all have ended, or at the time at which what is left
    /// is cut. Dropping the future cuts everything at once.
    ///
    /// # Errors
    ///
    /// If the services cannot be set up; nothing was accepted then.
    pub async fn serve(self, listener: TcpListener) -> Result<(), NewServicesError> {
        let drain = self.drain.clone();
        serve(Services::for_consumers(self).await?, listener, drain).await;
        Ok(())
    }
}

/// The same for operators: `admin`, health and reflection, and nothing of what consumers have. Bounded as consumers are, but
/// with 100 connections at most.
///
/// # Errors
///
/// If the services cannot be set up; nothing was accepted then.
pub async fn serve_operators(
    admin: impl AdminService,
    settings: config::Grpc,
    listener: TcpListener,
    drain: Drain,
    metrics: Arc<Metrics>,
) -> Result<(), NewServicesError> {
    let settings = config::Grpc { max_connections: OPERATOR_CONNECTIONS, ..settings };
    serve(Services::for_operators(admin, settings.into(), &metrics).await?, listener, drain).await;
    Ok(())
}

async fn serve(services: Services, listener: TcpListener, drain: Drain) {
    let tasks = Tasks::default();
    let _cut_on_drop = tasks.cut.clone().drop_guard();
    let draining = CancellationToken::new();
    let throttle = || Throttle::every(WARN_INTERVAL).counted(services.lines_suppressed());
    let (mut failed, mut refused) = (throttle(), throttle());

    let unready = async {
        drain.begun().await;
        services.not_serving().await;
        tracing::info!(service = services.main(), "not ready any more: health says NOT_SERVING");
    };
    // Both: where there is no time between the two, health says so all the same before anybody is told to go.
    let mut ending = pin!(join(unready, drain.ending()));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut ending => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                services.counts().accept_failed();
                // The connection stays in the backlog, so that accepting again at once would spin.
                if let Some(count) = failed.hit(Instant::now()) {
                    tracing::warn!(%error, count, "connections cannot be accepted at the moment");
                }
                tokio::select! {
                    _ = &mut ending => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        let limit = services.settings().max_connections;
        if tasks.tracker.len() >= limit {
            // Closed rather than left waiting: the client can try elsewhere.
            services.counts().connection_refused();
            if let Some(count) = refused.hit(Instant::now()) {
                tracing::warn!(limit, %peer, count, "connection refused: there are too many");
            }
            continue;
        }
        // Without it small frames wait for acknowledgements. It fails only for a socket that is gone already.
        let _ = socket.set_nodelay(true);
        let services = services.clone();
        let draining = draining.child_token();
        tasks.spawn(async move {
            match connection::serve(socket, peer, services, draining).await {
                Ok(()) => tracing::debug!(%peer, "connection ended"),
                Err(error) => tracing::debug!(%peer, %error, "connection ended"),
            }
        });
    }

    drop(listener);
    tracing::info!(
        service = services.main(),
        connections = tasks.tracker.len(),
        "connections are told to go, and streams where to resume"
    );
    draining.cancel();
    tasks.tracker.close();
    tokio::select! {
        biased;
        () = tasks.tracker.wait() => {}
        () = drain.cut() => {
            tracing::warn!(connections = tasks.tracker.len(), "it took too long: what is left is cut");
            tasks.cut.cancel();
            tasks.tracker.wait().await;
        }
    }
    drain.done();
}

/// Owns every task of the server: one for each connection.
#[derive(Default)]
struct Tasks {
    tracker: TaskTracker,
    /// Ends all of them at once.
    cut: CancellationToken,
}

impl Tasks {
    fn spawn(&self, task: impl Future<Output: Send> + Send + 'static) {
        // A token of its own, so that connections do not meet at one lock whenever they are polled.
        let cut = self.cut.child_token();
        self.tracker.spawn(cut.run_until_cancelled_owned(task));
    }
}

/// Whether accepting failed for the connection that was to be accepted, not for the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
