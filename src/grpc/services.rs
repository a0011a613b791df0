//! Which path is served by whom; and the unary calls.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::{Status, server::NamedService, service::Routes, transport::server::TcpConnectInfo};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::ServiceExt;

use crate::{
    binding::{OptIn, catalogue},
    clock::SharedClock,
    config::{self, InForce},
    hub::{self, GapReason, Hub},
    ops::drain::Drain,
    proto::{
        self,
        admin_service_server::{AdminService, AdminServiceServer},
        event_service_server::{EventService, EventServiceServer},
    },
    random::SharedRandom,
    telemetry::metrics::{Count, Metrics, ServingCounts},
};

use super::{Server, content::Content, ended::Cause, limits, message, status, streams::Streams, subscribe};

/// Accounts on a page where the request does not say.
const ACCOUNTS_DEFAULT: usize = 100;

/// Who calls: a connection.
#[derive(Clone)]
pub(crate) struct Caller {
    /// Its other end.
    pub peer: SocketAddr,
    /// Cancelled when it drains.
    pub drain: CancellationToken,
}

/// What the calls of consumers share.
pub(crate) struct Shared {
    pub settings: InForce<config::Grpc>,
    pub hub: Arc<Hub>,
    pub opt_in: OptIn,
    pub clock: SharedClock,
    pub random: SharedRandom,
    pub drain: Drain,
    /// Those that are open, and those that are over.
    pub streams: Arc<Streams>,
    pub counts: Arc<ServingCounts>,
}

/// The services could not be set up: a defect of this build.
#[derive(Debug, thiserror::Error)]
#[error("server reflection cannot be built from the compiled descriptors")]
pub struct NewServicesError(#[from] tonic_reflection::server::Error);

/// All services of one listener. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Services {
    /// The bounds of its connections.
    settings: InForce<config::Grpc>,
    /// What serves `Subscribe`, on the consumers' listener.
    subscribe: Option<Arc<Shared>>,
    /// Everything else.
    routes: Routes,
    /// What the listener is for.
    main: &'static str,
    health: HealthReporter,
    /// What is counted of the listener, its connections and its streams.
    counts: Arc<ServingCounts>,
    lines_suppressed: Arc<Count>,
}

impl Services {
    /// Those for consumers.
    pub(crate) async fn for_consumers(server: Server) -> Result<Self, NewServicesError> {
        let settings = server.settings.clone();
        let counts = server.metrics.serving().clone();
        counts.expect_stream_ends::<Cause>();
        counts.expect_gaps::<GapReason>();
        let shared = Arc::new(Shared {
            settings: server.settings,
            hub: server.hub,
            opt_in: server.opt_in,
            clock: server.clock,
            random: server.random,
            drain: server.drain,
            streams: server.streams,
            counts: counts.clone(),
        });
        let calls = EventServiceServer::new(Calls { shared: shared.clone() });
        let calls = calls.max_decoding_message_size(settings.get().max_request_bytes);
        let services = Self::of(calls, settings, &server.metrics).await?;
        Ok(Self { subscribe: Some(shared), counts, ..services })
    }

    /// Those for operators. Their connections are not counted among those of consumers.
    pub(crate) async fn for_operators(
        admin: impl AdminService,
        settings: InForce<config::Grpc>,
        metrics: &Metrics,
    ) -> Result<Self, NewServicesError> {
        let calls = AdminServiceServer::new(admin);
        Self::of(calls.max_decoding_message_size(settings.get().max_request_bytes), settings, metrics).await
    }

    /// A service, with health and reflection of it and of nothing else.
    async fn of<S>(
        service: S,
        settings: InForce<config::Grpc>,
        metrics: &Metrics,
    ) -> Result<Self, NewServicesError>
    where
        S: tower::Service<
                Request<tonic::body::Body>,
                Response = Response<tonic::body::Body>,
                Error = std::convert::Infallible,
                Future: Send + 'static,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        // Liveness and readiness do not follow the upstream: a server without one still serves what it has, and says so.
        // `""` is served from the start.
        let health = HealthReporter::new();
        health.set_service_status(S::NAME, ServingStatus::Serving).await;
        let health_service = tonic_health::server::HealthService::from_health_reporter(health.clone());
        let routes = Routes::new(service)
            .add_service(tonic_health::pb::health_server::HealthServer::new(health_service))
            .add_service(reflection(S::NAME).build_v1()?)
            .add_service(reflection(S::NAME).build_v1alpha()?)
            .prepare();
        Ok(Self {
            settings,
            subscribe: None,
            routes,
            main: S::NAME,
            health,
            counts: Arc::default(),
            lines_suppressed: metrics.lines_suppressed(),
        })
    }

    /// The bounds of the listener's connections.
    pub(crate) fn settings(&self) -> Arc<config::Grpc> {
        self.settings.get()
    }

    /// What is counted of the listener and its connections.
    pub(crate) fn counts(&self) -> &Arc<ServingCounts> {
        &self.counts
    }

    /// Counts lines of log that are held back.
    pub(crate) fn lines_suppressed(&self) -> Arc<Count> {
        self.lines_suppressed.clone()
    }

    /// The name of what the listener is for.
    pub(crate) fn main(&self) -> &'static str {
        self.main
    }

    /// The streams of the consumers' listener.
    #[cfg(test)]
    pub(crate) fn streams(&self) -> &Arc<Streams> {
        &self.subscribe.as_ref().expect("the services are for consumers").streams
    }

    /// Whether streams hold more memory than they may, all together.
    pub(crate) fn is_overheld(&self) -> bool {
        self.subscribe.as_ref().is_some_and(|shared| shared.hub.is_overheld())
    }

    /// Health says NOT_SERVING from now on.
    pub(crate) async fn not_serving(&self) {
        for name in ["", self.main] {
            self.health.set_service_status(name, ServingStatus::NotServing).await;
        }
    }

    /// Serves one call. What it gives must be told of the drain, if there is one: it ends by itself then.
    pub(crate) async fn call<B>(self, caller: Caller, request: Request<B>) -> Response<Content>
    where
        B: http_body::Body<Data = bytes::Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + 'static,
    {
        if let Some(shared) = self.subscribe
            && request.uri().path() == subscribe::PATH
        {
            return subscribe::serve(&shared, caller, request).await;
        }
        let mut request = request.map(tonic::body::Body::new);
        // Where tonic looks for the address of who calls.
        let connection = TcpConnectInfo { local_addr: None, remote_addr: Some(caller.peer) };
        request.extensions_mut().insert(connection);
        let response = self.routes.oneshot(request).await;
        match response {
            Ok(response) => response.map(Content::other),
            Err(never) => match never {},
        }
    }
}

/// Reflection of the services that a listener has (`hawking.v1` has more), with all descriptors that a client needs to
/// read them: those of error details among them, without which clients show details as base64.
fn reflection(main: &'static str) -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(main)
        .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .with_service_name("grpc.reflection.v1alpha.ServerReflection")
}

/// The unary calls.
struct Calls {
    shared: Arc<Shared>,
}

type EmptyStream = Pin<Box<futures_util::stream::Empty<Result<proto::SubscribeResponse, Status>>>>;

#[tonic::async_trait]
impl EventService for Calls {
    type SubscribeStream = EmptyStream;

    /// Not reached: [`Services::call`] serves its path before the generated server sees it.
    async fn subscribe(
        &self,
        _request: tonic::Request<proto::SubscribeRequest>,
    ) -> Result<tonic::Response<Self::SubscribeStream>, Status> {
        Err(status::internal("Subscribe is served elsewhere"))
    }

    async fn get_account_status(
        &self,
        request: tonic::Request<proto::GetAccountStatusRequest>,
    ) -> Result<tonic::Response<proto::GetAccountStatusResponse>, Status> {
        let id = limits::account(&request.get_ref().account_id)?;
        let account = self.shared.hub.lookup(id).await;
        let account = account.map_err(|error| status::lookup_error(&error, id.as_str()))?;
        let status = account.status();
        let position = message::cursor(status.position.epoch, status.position.sequence);
        // Nobody asked for these: they stand under their canonical names.
        let interest: Vec<_> =
            status.interest.iter().map(|report| message::binding_status(&report.binding, report)).collect();
        Ok(tonic::Response::new(proto::GetAccountStatusResponse {
            account_id: id.to_string(),
            upstream_status: Some(message::upstream_status(
                &status.upstream,
                status.since,
                position,
                Vec::new(),
            )),
            replay_window: Some(message::window(&status.window)),
            log_records: status.records as u64,
            log_bytes: status.bytes as u64,
            subscriptions: message::count(status.subscriptions),
            views: message::count(status.views),
            interest,
            served_by_account_id: account.served_by().to_string(),
        }))
    }

    async fn list_accounts(
        &self,
        request: tonic::Request<proto::ListAccountsRequest>,
    ) -> Result<tonic::Response<proto::ListAccountsResponse>, Status> {
        let request = request.get_ref();
        let page = limits::page(request.page_size, &request.page_token, ACCOUNTS_DEFAULT)?;
        let accounts = self.shared.hub.listed();
        let start = match page.after {
            Some(after) => accounts.partition_point(|account| account.id <= after),
            None => 0,
        };
        let rest = &accounts[start..];
        let shown = &rest[..page.size.min(rest.len())];
        let next = shown.last().filter(|_| shown.len() < rest.len());
        Ok(tonic::Response::new(proto::ListAccountsResponse {
            next_page_token: next.map(|account| account.id.to_string()).unwrap_or_default(),
            accounts: shown
                .iter()
                .map(|account| proto::Account {
                    account_id: account.id.to_string(),
                    name: account.name.to_string(),
                    upstream_state: message::upstream_state(account.upstream).into(),
                    served_by_account_id: account.served_by.to_string(),
                })
                .collect(),
        }))
    }

    async fn list_binding_types(
        &self,
        _request: tonic::Request<proto::ListBindingTypesRequest>,
    ) -> Result<tonic::Response<proto::ListBindingTypesResponse>, Status> {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let binding_types = catalogue::TYPES.iter().map(|of| proto::BindingType {
            template: of.template.to_owned(),
            category: hub::category(of.kind).into(),
            description: of.description.to_owned(),
            examples: texts(of.examples),
            caveats: texts(of.caveats),
            flavours: of.flavours.iter().map(|flavour| flavour.as_str().to_owned()).collect(),
            requires_opt_in: of.requires_opt_in,
            month_bound: of.month_bound,
        });
        Ok(tonic::Response::new(proto::ListBindingTypesResponse { binding_types: binding_types.collect() }))
    }
}
