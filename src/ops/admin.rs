//! `AdminService`: what operators can see, and do, while hawking runs.
//!
//! It is served on a listener of its own, which nobody but operators should reach: it asks nobody who they are. Whatever
//! changes something leaves a line in the log that says who asked for it, as far as that is known.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use prost::Message as _;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::{
    binding::AccountId,
    config,
    grpc::{
        ended::{EndedStream, KEPT_BINDINGS},
        limits, message,
        status::{self, Unwilling},
        streams::{Consumer, OpenStream, Streams},
    },
    hub::{self, Cursor, Hub},
    ops::drain::{Drain, Progress, Reason},
    proto::{self, admin_service_server::AdminService},
    upstream::{Accounts, BindingHeld, Order, Reply, SessionReport, Steering, Unheard},
};

/// Ended streams that are told of where the request does not say how many.
const ENDED_DEFAULT: usize = 100;
/// What a page is ended behind, in bytes: gRPC clients take 4 MiB unless told otherwise, and one entry has 20 KiB at most.
const PAGE_BYTES: usize = 2 << 20;

/// What an operator works on.
pub struct Admin {
    /// The accounts.
    pub hub: Arc<Hub>,
    /// The streams of the consumers' listener.
    pub streams: Arc<Streams>,
    /// The configured accounts, and what keeps their sessions.
    pub accounts: Arc<Accounts>,
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

    /// A configured account, and what steers its sessions.
    fn upstream(&self, id: &str) -> Result<(AccountId, Steering), Status> {
        let id = limits::account(id)?;
        if let Some(steering) = self.accounts.steering(&id) {
            return Ok((id, steering));
        }
        Err(match self.hub.served_by(&id) {
            Some(served_by) => status::served_by_another(id.as_str(), served_by.as_str()),
            None => status::account_not_configured(id.as_str()),
        })
    }

    async fn order(&self, operator: &Operator, id: &str, order: Order) -> Result<(), Status> {
        let (id, steering) = self.upstream(id)?;
        let name = match order {
            Order::Rotate => "rotate",
            Order::Reconnect => "reconnect",
        };
        let (result, outcome) = match steering.ask(order).await {
            Ok(Reply::Begun) => (Ok(()), "begun"),
            Ok(Reply::UnderWay) => (Err(Unwilling::UnderWay), "under way already"),
            Ok(Reply::NoSession) => (Err(Unwilling::NoSession), "there is no session"),
            Err(Unheard) => (Err(Unwilling::Unheard), "not heard"),
        };
        info!(%operator, account = %id, order = name, outcome, "an operator steers a session");
        result.map_err(|why| status::upstream_unwilling(why, id.as_str()))
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_server_info(
        &self,
        _request: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::GetServerInfoResponse>, Status> {
        Ok(Response::new(proto::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(message::timestamp(self.started)),
            accounts: message::count(self.accounts.steerings().len()),
            subscriptions: message::count(self.streams.count()),
            draining: !self.drain.is_serving(),
            serving_state: serving_state(self.drain.progress()).into(),
        }))
    }

    async fn list_upstream_sessions(
        &self,
        request: Request<proto::ListUpstreamSessionsRequest>,
    ) -> Result<Response<proto::ListUpstreamSessionsResponse>, Status> {
        let only = request.get_ref().account_id.as_str();
        let asked = match only {
            "" => self.accounts.steerings(),
            id => vec![self.upstream(id)?],
        };
        // All at once: one that does not answer holds up nobody else's.
        let listed = asked.iter().filter_map(|(id, steering)| {
            let account = self.hub.get(id)?;
            Some(async move { (*id, upstream_status(&account), steering.sessions().await) })
        });
        let mut sessions = Vec::new();
        for (id, status, reports) in join_all(listed).await {
            match reports {
                // Who asked for this one is to ask again; who asked for all is told of the others.
                Err(Unheard) if !only.is_empty() => {
                    return Err(status::upstream_unwilling(Unwilling::Unheard, id.as_str()));
                }
                Err(unheard) => {
                    let detail = format!("its sessions are not known: {unheard}");
                    sessions.push(no_session(id, proto::UpstreamStatus { detail, ..status }));
                }
                Ok(reports) if reports.is_empty() => sessions.push(no_session(id, status)),
                Ok(reports) => {
                    sessions.extend(reports.into_iter().map(|report| session(id, report, status.clone())))
                }
            }
        }
        Ok(Response::new(proto::ListUpstreamSessionsResponse { sessions }))
    }

    async fn list_subscribers(
        &self,
        request: Request<proto::ListSubscribersRequest>,
    ) -> Result<Response<proto::ListSubscribersResponse>, Status> {
        let request = request.get_ref();
        let only = self.filter(&request.account_id)?;
        let page = limits::page(request.page_size, &request.page_token, limits::MAX_PAGE)?;
        // One more, to know whether there is another page.
        let streams = self.streams.open_after(page.after, only, page.size + 1);
        let (mut subscribers, mut bytes) = (Vec::new(), 0);
        for stream in streams.iter().take(page.size) {
            if bytes > PAGE_BYTES {
                break;
            }
            let subscriber = open(stream);
            bytes += subscriber.encoded_len();
            subscribers.push(subscriber);
        }
        let last = subscribers.last().filter(|_| subscribers.len() < streams.len());
        let next_page_token = last.map(|last| last.subscription_id.clone()).unwrap_or_default();
        Ok(Response::new(proto::ListSubscribersResponse { subscribers, next_page_token }))
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
        request: Request<proto::ReconnectUpstreamRequest>,
    ) -> Result<Response<proto::ReconnectUpstreamResponse>, Status> {
        self.order(&Operator::of(&request), &request.get_ref().account_id, Order::Reconnect).await?;
        Ok(Response::new(proto::ReconnectUpstreamResponse {}))
    }

    async fn rotate_upstream(
        &self,
        request: Request<proto::RotateUpstreamRequest>,
    ) -> Result<Response<proto::RotateUpstreamResponse>, Status> {
        self.order(&Operator::of(&request), &request.get_ref().account_id, Order::Rotate).await?;
        Ok(Response::new(proto::RotateUpstreamResponse {}))
    }

    async fn drain(
        &self,
        request: Request<proto::DrainRequest>,
    ) -> Result<Response<proto::DrainResponse>, Status> {
        let deadline = match request.get_ref().deadline {
            None => None,
            Some(deadline) => {
                let deadline = Duration::try_from(deadline).ok();
                let deadline = deadline.filter(|deadline| *deadline <= config::MAX_DRAIN_TIMEOUT);
                Some(deadline.ok_or_else(|| {
                    let what = "it is a duration from 0 to 1 h";
                    status::invalid_field(status::Reason::Request, "deadline", what)
                })?)
            }
        };
        let streams = self.streams.count();
        warn!(operator = %Operator::of(&request), ?deadline, streams, "an operator drains the server");
        self.drain.begin(Reason::Operator, deadline);
        Ok(Response::new(proto::DrainResponse {}))
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

/// The entry of an account that has no session, or of which it is not known: its status says why.
fn no_session(id: AccountId, status: proto::UpstreamStatus) -> proto::UpstreamSession {
    proto::UpstreamSession { account_id: id.to_string(), status: Some(status), ..Default::default() }
}

fn serving_state(progress: Progress) -> proto::ServingState {
    match progress {
        Progress::Serving => proto::ServingState::Serving,
        Progress::Leaving => proto::ServingState::Leaving,
        Progress::Draining => proto::ServingState::Draining,
        Progress::Drained => proto::ServingState::Drained,
    }
}

fn upstream_status(account: &hub::Account) -> proto::UpstreamStatus {
    let (change, since, position) = account.upstream();
    message::upstream_status(&change, since, message::cursor(position.epoch, position.sequence), Vec::new())
}

fn session(
    account: AccountId,
    report: SessionReport,
    status: proto::UpstreamStatus,
) -> proto::UpstreamSession {
    let binding = |held: BindingHeld| {
        let (state, reason) = message::binding_state(&held.state);
        proto::UpstreamBinding {
            binding: held.binding.to_string(),
            state: state.into(),
            confirm_time: held.confirmed.map(message::timestamp),
            superfluous: held.superfluous,
            account_id: held.account.to_string(),
            reason: reason.to_owned(),
        }
    };
    proto::UpstreamSession {
        account_id: account.to_string(),
        session_id: report.number.to_string(),
        status: Some(status),
        connect_time: Some(message::timestamp(report.opened)),
        bindings: report.bindings.into_iter().map(binding).collect(),
        events_received: report.events,
        duplicates: report.duplicates,
        successor: report.successor,
    }
}

fn open(stream: &OpenStream) -> proto::Subscriber {
    let bindings = stream.bindings().take(KEPT_BINDINGS).map(str::to_owned).collect();
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

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::{clock::SystemClock, upstream::Seams};

    const ACCOUNT: &str = "account0000000000000000000000002";

    /// Of a server with one account, whose task does not answer.
    fn admin() -> Admin {
        let hub = Arc::new(Hub::new(config::Hub::default(), Arc::new(SystemClock), || 1));
        let account = config::Account {
            id: ACCOUNT.parse().unwrap(),
            crossbar_url: None,
            blackhole_url: None,
            credentials: config::Credentials::ApiKey { key: "secret".into() },
            always_on: Vec::new(),
        };
        hub.add(account.id, account.id, Vec::new());
        let seams = Seams::system(&config::Upstream::default()).unwrap();
        Admin {
            hub: hub.clone(),
            streams: Arc::default(),
            accounts: Arc::new(Accounts::unheard(account, hub, seams)),
            started: SystemTime::UNIX_EPOCH,
            drain: Drain::new(config::Shutdown::default()),
        }
    }

    /// What is added to a time must not leave its range: not here, and not in the tasks of those who are told of it.
    #[tokio::test]
    async fn a_drain_has_an_end() {
        let admin = admin();
        let drain = async |seconds, nanos| {
            let deadline = Some(prost_types::Duration { seconds, nanos });
            admin.drain(Request::new(proto::DrainRequest { deadline })).await.map_err(|status| status.code())
        };
        for (seconds, nanos) in [(-1, 0), (3600, 1), (3601, 0), (315_576_000_000, 0), (i64::MAX, 999_999_999)]
        {
            assert_eq!(drain(seconds, nanos).await.err(), Some(Code::InvalidArgument), "{seconds} {nanos}");
        }
        assert!(admin.drain.is_serving());
        assert!(drain(3600, 0).await.is_ok());
        assert_eq!(admin.drain.reason(), Some(Reason::Operator));
    }

    #[tokio::test]
    async fn who_does_not_answer_is_not_said_to_have_no_session() {
        let admin = admin();
        let list = async |account_id: &str| {
            let request = proto::ListUpstreamSessionsRequest { account_id: account_id.to_owned() };
            let listed = admin.list_upstream_sessions(Request::new(request)).await;
            listed.map(|listed| listed.into_inner().sessions)
        };
        let status = list(ACCOUNT).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        let all = list("").await.unwrap();
        let [account] = &all[..] else { panic!("{all:?}") };
        assert_eq!((&*account.account_id, &*account.session_id), (ACCOUNT, ""));
        let detail = &account.status.as_ref().unwrap().detail;
        assert!(detail.contains("not known") && detail.contains("does not answer"), "{detail}");
    }
}
