//! `AdminService`: what operators can see, and do, while hawking runs.
//!
//! It is served on a listener of its own, which nobody but operators should reach: it asks nobody who they are. Whatever
//! changes something leaves a line in the log that says who asked for it, as far as that is known.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use tonic::{Request, Response, Status};
use tracing::info;

use crate::{
    binding::AccountId,
    grpc::{
        ended::EndedStream,
        limits, message, status,
        streams::{Consumer, OpenStream, Streams},
    },
    hub::{Cursor, Hub},
    ops::drain::Drain,
    proto::{self, admin_service_server::AdminService},
};

/// Ended streams that are told of where the request does not say how many.
const ENDED_DEFAULT: usize = 100;

/// What an operator works on.
pub struct Admin {
    /// The accounts.
    pub hub: Arc<Hub>,
    /// The streams of the consumers' listener.
    pub streams: Arc<Streams>,
    /// When the server started.
    pub started: SystemTime,
    /// The drain of the consumers' listener.
    pub drain: Drain,
}

impl Admin {
    /// The account of a filter, `None` where there is no filter.
    fn filter(&self, id: &str) -> Result<Option<AccountId>, Status> {
        if id.is_empty() {
            return Ok(None);
        }
        let id = limits::account(id)?;
        let known = self.hub.get(&id).is_some() || self.hub.facts(&id).is_some();
        if known { Ok(Some(id)) } else { Err(status::account_not_configured(id.as_str())) }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_server_info(
        &self,
        _request: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::GetServerInfoResponse>, Status> {
        let configured = self.hub.list().iter().filter(|account| account.id() == account.served_by()).count();
        Ok(Response::new(proto::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(message::timestamp(self.started)),
            accounts: message::count(configured),
            subscriptions: message::count(self.streams.count()),
            draining: !self.drain.is_serving(),
        }))
    }

    async fn list_upstream_sessions(
        &self,
        _request: Request<proto::ListUpstreamSessionsRequest>,
    ) -> Result<Response<proto::ListUpstreamSessionsResponse>, Status> {
        Err(Status::unimplemented("not served yet"))
    }

    async fn list_subscribers(
        &self,
        request: Request<proto::ListSubscribersRequest>,
    ) -> Result<Response<proto::ListSubscribersResponse>, Status> {
        let only = self.filter(&request.get_ref().account_id)?;
        let streams = self.streams.open();
        let wanted = |stream: &&Arc<OpenStream>| only.is_none_or(|only| stream.consumer().account == only);
        let subscribers = streams.iter().filter(wanted).map(|stream| open(stream)).collect();
        Ok(Response::new(proto::ListSubscribersResponse { subscribers }))
    }

    async fn list_ended_streams(
        &self,
        request: Request<proto::ListEndedStreamsRequest>,
    ) -> Result<Response<proto::ListEndedStreamsResponse>, Status> {
        let limit = match usize::try_from(request.get_ref().limit) {
            Ok(0) => ENDED_DEFAULT,
            Ok(limit) => limit,
            Err(_) => {
                let what = "it is 0 (the default) or more";
                return Err(status::invalid_field(status::Reason::Request, "limit", what));
            }
        };
        let streams = self.streams.ended().newest(limit).into_iter().map(ended).collect();
        Ok(Response::new(proto::ListEndedStreamsResponse { streams }))
    }

    async fn disconnect_subscriber(
        &self,
        request: Request<proto::DisconnectSubscriberRequest>,
    ) -> Result<Response<proto::DisconnectSubscriberResponse>, Status> {
        let by = Operator::of(&request);
        let id = &request.get_ref().subscription_id;
        let id = id.parse().map_err(|error: crate::grpc::streams::SubscriptionIdError| {
            status::invalid_field(status::Reason::Request, "subscription_id", error.to_string())
        })?;
        let Some(stream) = self.streams.disconnect(id) else {
            return Err(status::no_such_subscription(id));
        };
        let consumer = stream.consumer();
        info!(
            operator = %by,
            subscription = %id,
            account = %consumer.account,
            client = consumer.client_name,
            peer = %consumer.peer,
            "an operator disconnects a stream",
        );
        Ok(Response::new(proto::DisconnectSubscriberResponse {}))
    }

    async fn reconnect_upstream(
        &self,
        _request: Request<proto::ReconnectUpstreamRequest>,
    ) -> Result<Response<proto::ReconnectUpstreamResponse>, Status> {
        Err(Status::unimplemented("not served yet"))
    }

    async fn rotate_upstream(
        &self,
        _request: Request<proto::RotateUpstreamRequest>,
    ) -> Result<Response<proto::RotateUpstreamResponse>, Status> {
        Err(Status::unimplemented("not served yet"))
    }

    async fn drain(
        &self,
        _request: Request<proto::DrainRequest>,
    ) -> Result<Response<proto::DrainResponse>, Status> {
        Err(Status::unimplemented("not served yet"))
    }
}

/// Who asks, as far as it is known: nobody has to say who they are here.
struct Operator {
    peer: Option<SocketAddr>,
    agent: String,
}

impl Operator {
    fn of<T>(request: &Request<T>) -> Self {
        let agent = request.metadata().get("user-agent").and_then(|agent| agent.to_str().ok());
        Self { peer: request.remote_addr(), agent: agent.unwrap_or("unknown client").to_owned() }
    }
}

impl std::fmt::Display for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{peer} with {}", status::Shown(&self.agent)),
            None => write!(f, "{}", status::Shown(&self.agent)),
        }
    }
}

fn open(stream: &OpenStream) -> proto::Subscriber {
    let bindings = stream.bindings().map(str::to_owned).collect();
    subscriber(stream.consumer(), bindings, stream.position(), stream.lag(), stream.delivered())
}

fn ended(stream: EndedStream) -> proto::EndedStream {
    let EndedStream { consumer, bindings, position, lag, delivered, ended, cause } = stream;
    proto::EndedStream {
        subscriber: Some(subscriber(&consumer, bindings, position, lag, delivered)),
        end_time: Some(message::timestamp(ended)),
        reason: cause.as_str().to_owned(),
    }
}

fn subscriber(
    consumer: &Consumer,
    bindings: Vec<String>,
    position: Cursor,
    lag: u64,
    delivered: u64,
) -> proto::Subscriber {
    proto::Subscriber {
        subscription_id: consumer.subscription_id.to_string(),
        account_id: consumer.account.to_string(),
        client_name: consumer.client_name.clone(),
        peer: consumer.peer.to_string(),
        bindings,
        position: Some(message::cursor(position.epoch, position.sequence)),
        lag,
        start_time: Some(message::timestamp(consumer.began)),
        delivered,
    }
}
