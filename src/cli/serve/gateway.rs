//! The parts, wired together: hub, one upstream task for each account, the gRPC servers for consumers and for operators,
//! the admin HTTP listener.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, warn};

use crate::{
    config::{self, Config, InForce},
    grpc::{self, streams::Streams},
    hub::Hub,
    ops::{
        admin::Admin,
        drain::{Drain, Reason},
        http,
        reload::{Parts, Reload},
    },
    telemetry::metrics::Metrics,
    upstream::{Accounts, Seams},
};

/// The server cuts what did not end in time itself; so long after that it is cut with it.
const CUT_MARGIN: Duration = Duration::from_secs(1);
/// What calls of operators get to end, beside the tasks of the upstream.
const ADMIN_GRACE: Duration = Duration::from_secs(1);
/// What the admin HTTP listener gets for the answers that are under way, after all else.
const HTTP_GRACE: Duration = Duration::from_secs(1);
/// For the machine to be busy, and for the process to end.
const BUSY: Duration = Duration::from_millis(500);

// `shutdown.grace` is checked against that, so all of it together must not take longer.
const _: () = assert!(
    CUT_MARGIN.as_millis() + Accounts::CLOSING.as_millis() + HTTP_GRACE.as_millis() + BUSY.as_millis()
        <= config::Shutdown::CLOSING.as_millis()
);
const _: () = assert!(ADMIN_GRACE.as_millis() + CUT_MARGIN.as_millis() <= Accounts::CLOSING.as_millis());

/// A running gateway. It owns all of its tasks: dropping it ends them at once, [`Gateway::stop`] in good order.
pub struct Gateway {
    grpc_addr: SocketAddr,
    admin_addr: SocketAddr,
    http_addr: Option<SocketAddr>,
    hub: Arc<Hub>,
    streams: Arc<Streams>,
    metrics: Arc<Metrics>,
    /// `None` once it has ended, which it does after a drain.
    grpc: Option<AbortOnDropHandle<Result<(), grpc::NewServicesError>>>,
    admin: AbortOnDropHandle<Result<(), grpc::NewServicesError>>,
    admin_drain: Drain,
    /// Keeps the bounds of the hub's logs.
    _bounds: AbortOnDropHandle<()>,
    accounts: Arc<Accounts>,
    /// The admin HTTP listener. It answers until everything else has ended.
    http: Option<AbortOnDropHandle<()>>,
    http_stop: CancellationToken,
    drain: Drain,
    reload: Reload,
}

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address to listen on cannot be had.
    #[error("cannot listen on {address} ({setting}): {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The setting that it is from.
        setting: &'static str,
        /// Why.
        source: io::Error,
    },
    /// TLS for consumers is asked for, and cannot be had.
    #[error(transparent)]
    Tls(#[from] grpc::TlsSetupError),
    /// The system gives no threads for the sessions.
    #[error("cannot start the threads of the upstream: {0}")]
    Threads(io::Error),
}

impl Gateway {
    /// Starts everything. The upstream need not be there: it is tried for ever.
    ///
    /// # Errors
    ///
    /// When an address to listen on cannot be had, or a certificate cannot be used; then nothing was started.
    pub async fn start(config: Config, seams: Seams) -> Result<Self, StartError> {
        let (listener, grpc_addr) = listen(config.grpc.listen, "grpc.listen").await?;
        let (admin_listener, admin_addr) = listen(config.admin.grpc_listen, "admin.grpc_listen").await?;
        let http_listener = match config.admin.http_listen {
            Some(address) => Some(listen(address, "admin.http_listen").await?),
            None => None,
        };
        let metrics = seams.metrics.clone();
        let listener = grpc::Listener::new(listener, &config.grpc, &metrics)?;

        let random = seams.random.clone();
        let hub = Arc::new(Hub::new(config.hub.clone(), seams.clock.clone(), move || random.next_u64()));
        let bounds = tokio::spawn({
            let hub = hub.clone();
            async move { hub.keep_bounds().await }
        });
        let drain = Drain::new(config.shutdown.clone());

        let opt_in = config.upstream.opt_in.clone();
        let accounts =
            Accounts::start(config.upstream.clone(), config.accounts.clone(), hub.clone(), seams.clone())
                .map_err(StartError::Threads)?;
        let accounts = Arc::new(accounts);
        let settings = InForce::from(config.grpc.clone());

        let streams = Arc::<Streams>::default();
        let admin = Admin {
            hub: hub.clone(),
            streams: streams.clone(),
            accounts: accounts.clone(),
            started: seams.clock.now(),
            drain: drain.clone(),
        };
        // A drain of its own: it goes on while consumers are sent away, for an operator wants to see that.
        let shutdown = config::Shutdown {
            endpoint_wait: Duration::ZERO,
            drain_timeout: ADMIN_GRACE,
            ..config::Shutdown::default()
        };
        let admin_drain = Drain::new(shutdown);
        let admin = grpc::serve_operators(
            admin,
            config.grpc.clone(),
            admin_listener,
            admin_drain.clone(),
            metrics.clone(),
        );
        let server = grpc::Server {
            settings: settings.clone(),
            hub: hub.clone(),
            opt_in,
            clock: seams.clock.clone(),
            random: seams.random,
            drain: drain.clone(),
            streams: streams.clone(),
            metrics: metrics.clone(),
        };

        let parts = Parts {
            accounts: accounts.clone(),
            hub: hub.clone(),
            grpc: settings,
            drain: drain.clone(),
            clock: seams.clock,
            metrics: metrics.clone(),
        };
        let reload = Reload::new(config, parts);

        let (hub_read, streams_read, drain_read) =
            (Arc::downgrade(&hub), Arc::downgrade(&streams), drain.clone());
        metrics.read_from(move |reading| {
            reading.draining = !drain_read.is_serving();
            if let (Some(hub), Some(streams)) = (hub_read.upgrade(), streams_read.upgrade()) {
                hub.read(reading);
                streams.read(reading);
            }
        });
        let (drain_asked, http_stop) = (drain.clone(), CancellationToken::new());
        let running = reload.running();
        let pages = http::Pages {
            ready: Box::new(move || drain_asked.is_serving()),
            config: Box::new(move || running.get().redacted_toml()),
            metrics: metrics.clone(),
        };
        let http_addr = http_listener.as_ref().map(|(_, address)| *address);
        let http = http_listener.map(|(listener, _)| http::serve(listener, pages, http_stop.clone()));
        let http = http.map(|serving| AbortOnDropHandle::new(tokio::spawn(serving)));
        Ok(Self {
            grpc_addr,
            admin_addr,
            http_addr,
            hub,
            streams,
            metrics,
            grpc: Some(AbortOnDropHandle::new(tokio::spawn(server.serve(listener)))),
            admin: AbortOnDropHandle::new(tokio::spawn(admin)),
            admin_drain,
            _bounds: AbortOnDropHandle::new(bounds),
            accounts,
            http,
            http_stop,
            drain,
            reload,
        })
    }

    /// Where gRPC is served: the real port, also where port 0 was configured.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Where `AdminService` is served: the real port.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The streams of the consumers' listener.
    pub fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// Where the admin HTTP listener is, unless it is turned off.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// How it gets new settings.
    pub fn reload(&mut self) -> &mut Reload {
        &mut self.reload
    }

    /// The configured accounts.
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// The hub.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Its drain, to begin it and to see how far it is. The gateway itself goes on when that is over: its upstreams, its hub.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Completes if a gRPC server ends although nobody asked it to: a defect. Otherwise never.
    pub async fn failed(&mut self) {
        loop {
            let consumers = async {
                match &mut self.grpc {
                    Some(grpc) => grpc.await,
                    None => std::future::pending().await,
                }
            };
            let (server, ended) = tokio::select! {
                ended = consumers => ("consumers", ended),
                ended = &mut self.admin => ("operators", ended),
            };
            if server == "consumers" {
                self.grpc = None;
                if matches!(ended, Ok(Ok(()))) && self.drain.is_done() {
                    continue;
                }
            }
            match ended {
                Ok(Ok(())) => error!("the gRPC server for {server} ended"),
                Ok(Err(error)) => error!(%error, "the gRPC server for {server} cannot be set up"),
                Err(error) => error!(%error, "the gRPC server for {server} panicked"),
            }
            return;
        }
    }

    /// Ends everything in good order: first the [drain](crate::ops::drain), which begins here if it has not yet, then the
    /// sessions are closed. What has not ended at its time is cut off.
    pub async fn stop(self) {
        let Self { grpc, admin, admin_drain, accounts, http, http_stop, drain, .. } = self;
        drain.begin(Reason::Shutdown, None);
        if let Some(grpc) = grpc {
            let late = async {
                drain.cut().await;
                sleep(CUT_MARGIN).await;
            };
            tokio::select! {
                // How it ended is of no interest any more: a panic was logged.
                _ = grpc => {}
                () = late => warn!("the gRPC server did not end in time and is cut off"),
            }
        }
        admin_drain.begin(Reason::Shutdown, None);
        let operators = async {
            // It cuts what is left by itself, and whether it panicked or not: it ends here.
            let _ = timeout(ADMIN_GRACE + CUT_MARGIN, admin).await;
        };
        tokio::join!(accounts.stop(), operators);
        // Until here a probe was answered: without an answer the process would be killed.
        http_stop.cancel();
        if let Some(http) = http {
            let _ = timeout(HTTP_GRACE, http).await;
        }
    }
}

async fn listen(address: SocketAddr, setting: &'static str) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, setting, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
