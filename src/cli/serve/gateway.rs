//! The parts, wired together: hub, one upstream task for each account, the gRPC servers for consumers and for operators,
//! the admin HTTP listener.

use std::{any::Any, io, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, warn};

use crate::{
    binding::AccountId,
    config::{self, Config},
    grpc::{self, streams::Streams},
    hub::{Control, GapReason, Hub, LostBindings, UpstreamChange, UpstreamState},
    ops::{
        admin::Admin,
        drain::{Drain, Reason},
        http,
    },
    telemetry::metrics::Metrics,
    upstream::{self, Seams, Steered, Steerings},
};

/// The first delay before the task of an account is started again after a panic; doubled each time.
const RESTART_FIRST: Duration = Duration::from_secs(1);
const RESTART_LAST: Duration = Duration::from_secs(60);
/// The server cuts what did not end in time itself; so long after that it is cut with it.
const CUT_MARGIN: Duration = Duration::from_secs(1);
/// What calls of operators get to end, beside the tasks of the upstream.
const ADMIN_GRACE: Duration = Duration::from_secs(1);
/// What the tasks of the upstream get to close their sessions, after the streams have ended.
const UPSTREAM_GRACE: Duration = Duration::from_millis(2500);
/// What the admin HTTP listener gets for the answers that are under way, after all else.
const HTTP_GRACE: Duration = Duration::from_secs(1);
/// For the machine to be busy, and for the process to end.
const BUSY: Duration = Duration::from_millis(500);

// `shutdown.grace` is checked against that, so all of it together must not take longer.
const _: () = assert!(
    CUT_MARGIN.as_millis() + UPSTREAM_GRACE.as_millis() + HTTP_GRACE.as_millis() + BUSY.as_millis()
        <= config::Shutdown::CLOSING.as_millis()
);
const _: () = assert!(ADMIN_GRACE.as_millis() < UPSTREAM_GRACE.as_millis());

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
    accounts: JoinSet<()>,
    /// The admin HTTP listener. It answers until everything else has ended.
    http: Option<AbortOnDropHandle<()>>,
    http_stop: CancellationToken,
    drain: Drain,
    stop: CancellationToken,
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
}

impl Gateway {
    /// Starts everything. The upstream need not be there: it is tried for ever.
    ///
    /// # Errors
    ///
    /// When an address to listen on cannot be had; then nothing was started.
    pub async fn start(config: Config, seams: Seams) -> Result<Self, StartError> {
        let (listener, grpc_addr) = listen(config.grpc.listen, "grpc.listen").await?;
        let (admin_listener, admin_addr) = listen(config.admin.grpc_listen, "admin.grpc_listen").await?;
        let http_listener = match config.admin.http_listen {
            Some(address) => Some(listen(address, "admin.http_listen").await?),
            None => None,
        };
        let shown_config = config.redacted_toml();
        let metrics = seams.metrics.clone();

        let random = seams.random.clone();
        let hub = Arc::new(Hub::new(config.hub, seams.clock.clone(), move || random.next_u64()));
        let bounds = tokio::spawn({
            let hub = hub.clone();
            async move { hub.keep_bounds().await }
        });
        let (drain, stop) = (Drain::new(config.shutdown), CancellationToken::new());

        let (mut accounts, steerings) = (JoinSet::new(), Arc::<Steerings>::default());
        let upstream = Arc::new(config.upstream);
        // All here already, so that a consumer who comes before a task's first turn is not told NOT_FOUND, and no account
        // is taken for another's descendant.
        for account in &config.accounts {
            hub.add(account.id, account.id, account.always_on.clone());
            if upstream.descendants {
                hub.will_tell(account.id);
            }
        }
        // They queue for the upstream: not in the same order each time, and in each replica.
        let mut in_any_order = config.accounts;
        in_any_order.sort_by_cached_key(|_| seams.random.next_u64());
        for account in in_any_order {
            let steered = steerings.take_on(account.id);
            let keep = keep_account(
                upstream.clone(),
                account,
                hub.clone(),
                seams.clone(),
                steerings.clone(),
                steered,
                stop.clone(),
            );
            accounts.spawn(keep);
        }

        let streams = Arc::<Streams>::default();
        let admin = Admin {
            hub: hub.clone(),
            streams: streams.clone(),
            upstreams: steerings,
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
            settings: config.grpc,
            hub: hub.clone(),
            opt_in: upstream.opt_in.clone(),
            clock: seams.clock,
            random: seams.random,
            drain: drain.clone(),
            streams: streams.clone(),
            metrics: metrics.clone(),
        };

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
        let pages = http::Pages {
            ready: Box::new(move || drain_asked.is_serving()),
            config: Box::new(move || shown_config.clone()),
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
            stop,
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
        let Self { grpc, admin, admin_drain, mut accounts, http, http_stop, drain, stop, .. } = self;
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
        stop.cancel();
        admin_drain.begin(Reason::Shutdown, None);
        let all_ended = async {
            while accounts.join_next().await.is_some() {}
            // Whether it panicked or not: it ends here.
            let _ = admin.await;
        };
        if timeout(UPSTREAM_GRACE, all_ended).await.is_err() {
            warn!("sessions to the upstream, or operators, did not go and are cut off");
        }
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

/// Keeps the task of an account going. A panic in it is a defect, and must neither take the other accounts down nor be
/// kept from this one's consumers.
async fn keep_account(
    settings: Arc<config::Upstream>,
    account: config::Account,
    hub: Arc<Hub>,
    seams: Seams,
    steerings: Arc<Steerings>,
    mut steered: Steered,
    stop: CancellationToken,
) {
    let id = account.id;
    let mut delay = RESTART_FIRST;
    loop {
        let run = upstream::run_steered(
            settings.clone(),
            account.clone(),
            hub.clone(),
            seams.clone(),
            steered,
            stop.clone(),
        );
        // Unwind safe: what the task shared with others is the hub alone, which is told below that the session is lost.
        let result = AssertUnwindSafe(run).catch_unwind().await;
        if stop.is_cancelled() {
            return;
        }
        let cause = match &result {
            Ok(()) => "it returned",
            Err(panic) => message(panic.as_ref()),
        };
        error!(account = %id, cause, ?delay, "the task of an account ended, which is a defect; it is started again");
        report_lost(&hub, id);
        steered = steerings.take_on(id);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return,
        }
        delay = (delay * 2).min(RESTART_LAST);
    }
}

/// The session went with its task: without this, consumers would take the silence for quiet, those of its descendants too.
fn report_lost(hub: &Hub, id: AccountId) {
    for account in hub.list().into_iter().filter(|account| account.served_by() == id) {
        let status = account.status();
        let last_life = status.upstream.last_life;
        account.record(Control::Lost {
            bindings: LostBindings::All,
            reason: GapReason::UpstreamDisconnected,
            since: last_life.unwrap_or(status.since),
        });
        account.record(Control::Upstream(UpstreamChange {
            state: UpstreamState::Down,
            flavour: status.upstream.flavour,
            last_life,
            detail: "an internal error; the session is opened again".into(),
        }));
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::{
        binding::{Binding, Flavour, OptIn, cover::cover},
        clock::SystemClock,
        config::Credentials,
        hub::BindingState,
        random::SeededRandom,
        upstream::{TcpDial, Transport, TransportError},
    };

    /// Panics at the first login, and never answers those after it.
    #[derive(Default)]
    struct Panics {
        logins: AtomicUsize,
    }

    impl Transport for Panics {
        fn send(
            &self,
            _: ::http::Request<Bytes>,
        ) -> BoxFuture<'_, Result<::http::Response<Bytes>, TransportError>> {
            assert!(self.logins.fetch_add(1, Ordering::Relaxed) > 0, "a defect");
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_told_to_consumers_and_the_task_is_started_again() {
        let id: AccountId = "account0000000000000000000000002".parse().unwrap();
        let binding = Binding::parse("call.*.*", &OptIn::default()).unwrap();
        let account = config::Account {
            id,
            crossbar_url: None,
            blackhole_url: None,
            credentials: Credentials::ApiKey { key: "secret".into() },
            always_on: vec![binding.clone()],
        };
        let transport = Arc::new(Panics::default());
        let seams = Seams {
            dial: Arc::new(TcpDial),
            transport: transport.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SeededRandom::new(1)),
            gate: Arc::default(),
            metrics: Arc::default(),
        };
        let hub = Arc::new(Hub::new(config::Hub::default(), seams.clock.clone(), || 1));
        let entry = hub.add(id, id, account.always_on.clone());
        // As if a session had been live before the panic.
        for held in cover([&binding], Flavour::K4) {
            entry.record(Control::Confirmed { binding: held });
        }
        assert_eq!(entry.status().interest[0].state, BindingState::Active);

        let stop = CancellationToken::new();
        let settings = Arc::new(config::Upstream::default());
        let steerings = Arc::<Steerings>::default();
        let task = tokio::spawn(keep_account(
            settings,
            account,
            hub.clone(),
            seams,
            steerings.clone(),
            steerings.take_on(id),
            stop.clone(),
        ));
        sleep(RESTART_FIRST / 2).await;
        let status = entry.status();
        assert_eq!(transport.logins.load(Ordering::Relaxed), 1);
        assert_eq!(status.upstream.state, UpstreamState::Down);
        assert!(status.upstream.detail.contains("internal error"), "{}", status.upstream.detail);
        assert_eq!(status.interest[0].state, BindingState::Pending, "its loss is recorded");

        sleep(RESTART_FIRST).await;
        assert_eq!(transport.logins.load(Ordering::Relaxed), 2, "it was started again");
        stop.cancel();
        task.await.unwrap();
    }
}
