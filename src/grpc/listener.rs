//! The accept loop. A gateway has to answer for each connection: how many there are, and that all of them end in time.

use std::{
    future::{Future, ready},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

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
    tls::{Tls, TlsSetupError},
};

/// The pause after accepting failed for want of resources (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections to the operators' listener at most.
const OPERATOR_CONNECTIONS: usize = 100;
/// One warning of each kind in this time, however often it happens.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Where consumers connect: a socket that listens, and what is spoken on its connections below HTTP/2. Of a socket alone
/// it is one without TLS, with the system's congestion control.
pub struct Listener {
    socket: TcpListener,
    tls: Option<Tls>,
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None }
    }
}

impl Listener {
    /// With TLS and congestion control as the settings have them. (`listen` is not read: the caller binds.) A congestion
    /// control that the system does not allow is only logged. Reads the files of certificate and key.
    ///
    /// # Errors
    ///
    /// If the settings ask for TLS, and certificate or key cannot be used.
    pub fn new(
        socket: TcpListener,
        settings: &config::Grpc,
        metrics: &Metrics,
    ) -> Result<Self, TlsSetupError> {
        let failures = Throttle::every(WARN_INTERVAL).counted(metrics.lines_suppressed());
        let tls = Tls::load(&settings.tls, failures)?;
        if let Some(name) = &settings.tcp_congestion
            && let Err(error) = set_congestion(&socket, name)
        {
            tracing::warn!(
                congestion = name,
                %error,
                "grpc.tcp_congestion cannot be set: the system's default stays"
            );
        }
        Ok(Self { socket, tls })
    }
}

/// Sets the congestion control of a listener; connections that it accepts inherit it.
#[cfg(target_os = "linux")]
fn set_congestion(socket: &TcpListener, name: &str) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_congestion(socket, name)?)
}

#[cfg(not(target_os = "linux"))]
fn set_congestion(_: &TcpListener, _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Server {
    /// Accepts and serves until it drains, and follows the [drain](crate::ops::drain) to its end: health says NOT_SERVING
    /// from its beginning; once streams are to end there are no more connections, each one is told to go away, each
    /// stream gets `Draining` and the status UNAVAILABLE. Returns when all have ended, or at the time at which what is left
    /// is cut. Dropping the future cuts everything at once.
    ///
    /// # Errors
    ///
    /// If the services cannot be set up; nothing was accepted then.
    pub async fn serve(self, listener: impl Into<Listener>) -> Result<(), NewServicesError> {
        let (listener, drain) = (listener.into(), self.drain.clone());
        serve(Services::for_consumers(self).await?, listener, drain).await;
        Ok(())
    }
}

/// The same for operators: `admin`, health and reflection, and nothing of what consumers have. Bounded as consumers are by
/// the settings at the start, but with 100 connections at most, and never over TLS.
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
    let services = Services::for_operators(admin, settings.into(), &metrics).await?;
    serve(services, listener.into(), drain).await;
    Ok(())
}

async fn serve(services: Services, listener: Listener, drain: Drain) {
    let Listener { socket: listener, tls } = listener;
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
        match tls.clone() {
            Some(tls) => tasks.spawn(async move {
                log_end(peer, connection::serve(tls.accept(socket, peer), peer, services, draining).await);
            }),
            None => tasks.spawn(async move {
                log_end(peer, connection::serve(ready(Ok(socket)), peer, services, draining).await);
            }),
        }
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

fn log_end(peer: SocketAddr, ended: Result<(), connection::ConnectionError>) {
    match ended {
        Ok(()) => tracing::debug!(%peer, "connection ended"),
        Err(error) => tracing::debug!(%peer, %error, "connection ended"),
    }
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_inherit_the_congestion_control_and_one_that_there_is_not_stops_nobody() {
        use rustix::net::sockopt::tcp_congestion;

        let bind = || TcpListener::bind("127.0.0.1:0");
        let default = tcp_congestion(bind().await.unwrap()).unwrap();
        // Linux always has reno, and allows it to everybody.
        for (wanted, expected) in [("reno", "reno"), ("no-such-thing", &default)] {
            let settings =
                config::Grpc { tcp_congestion: Some(wanted.to_owned()), ..config::Grpc::default() };
            let listener = Listener::new(bind().await.unwrap(), &settings, &Metrics::default()).unwrap();
            let _client =
                tokio::net::TcpStream::connect(listener.socket.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.socket.accept().await.unwrap();
            assert_eq!(tcp_congestion(accepted).unwrap(), expected);
        }
    }
}
