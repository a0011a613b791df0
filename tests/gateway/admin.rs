//! `AdminService`: what an operator sees and does, and that nobody else can.

use std::time::Duration;

use hawking::{
    config::{Config, Credentials},
    proto::{
        self, admin_service_client::AdminServiceClient, event_service_client::EventServiceClient,
        subscribe_response::Kind,
    },
    sim::{Event, Settings},
};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{harness::*, whole::Whole};

async fn admin(whole: &Whole) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel(whole.gateway.admin_addr()).await)
}

async fn subscribers(admin: &mut AdminServiceClient<Channel>, account_id: &str) -> Vec<proto::Subscriber> {
    let request = proto::ListSubscribersRequest { account_id: account_id.to_owned(), ..Default::default() };
    let page = admin.list_subscribers(request).await.unwrap().into_inner();
    assert_eq!(page.next_page_token, "", "all of them");
    page.subscribers
}

async fn ended(admin: &mut AdminServiceClient<Channel>, limit: i32) -> Vec<proto::EndedStream> {
    let request = proto::ListEndedStreamsRequest { limit };
    admin.list_ended_streams(request).await.unwrap().into_inner().streams
}

async fn sessions(admin: &mut AdminServiceClient<Channel>, account_id: &str) -> Vec<proto::UpstreamSession> {
    let request = proto::ListUpstreamSessionsRequest { account_id: account_id.to_owned() };
    admin.list_upstream_sessions(request).await.unwrap().into_inner().sessions
}

/// Waits until an account has this session alone.
async fn only_session(admin: &mut AdminServiceClient<Channel>, session_id: &str) {
    eventually(
        &format!("session {session_id} is the only one"),
        async || matches!(&sessions(admin, ACCOUNT).await[..], [only] if only.session_id == session_id),
    )
    .await;
}

/// What the bindings of a session are, in order, with their states: `+` held, `?` asked for, `-` superfluous, `!` refused.
fn held(session: &proto::UpstreamSession) -> Vec<String> {
    let mut held: Vec<String> = session
        .bindings
        .iter()
        .map(|of| {
            let sign = match of.state() {
                proto::BindingState::Active if of.superfluous => "-",
                proto::BindingState::Active => "+",
                proto::BindingState::Pending | proto::BindingState::Unspecified => "?",
                proto::BindingState::Refused => "!",
            };
            format!("{sign}{}", of.binding)
        })
        .collect();
    held.sort();
    held
}

fn quick_rotation(config: &mut Config) {
    config.upstream.rotation_grace = Duration::from_millis(300);
    config.upstream.resubscribe_delay = Duration::from_millis(500);
    config.hub.linger = Duration::from_millis(50);
}

/// What a listener says that it serves.
async fn listed(channel: Channel) -> Vec<String> {
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(futures_util::stream::iter([list])).await;
    let first = answers.unwrap().into_inner().message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = first else { panic!("{first:?}") };
    list.service.into_iter().map(|service| service.name).collect()
}

#[tokio::test]
async fn consumers_do_not_reach_it_and_operators_reach_nothing_else() {
    let whole = Whole::start().await;
    let (public, private) =
        (channel(whole.gateway.grpc_addr()).await, channel(whole.gateway.admin_addr()).await);

    let mut outside = AdminServiceClient::new(public.clone());
    let info = outside.get_server_info(proto::GetServerInfoRequest {}).await.unwrap_err();
    let drain = outside.drain(proto::DrainRequest::default()).await.unwrap_err();
    assert_eq!((info.code(), drain.code()), (Code::Unimplemented, Code::Unimplemented));
    let mut inside = EventServiceClient::new(private.clone());
    let accounts = inside.list_accounts(proto::ListAccountsRequest::default()).await.unwrap_err();
    let subscribe = inside.subscribe(request(&["call.*.*"])).await.unwrap_err();
    assert_eq!((accounts.code(), subscribe.code()), (Code::Unimplemented, Code::Unimplemented));

    let (public_names, private_names) = (listed(public.clone()).await, listed(private.clone()).await);
    let has = |names: &[String], name: &str| names.iter().any(|listed| listed == name);
    for (name, is_public, is_private) in [
        ("hawking.v1.EventService", true, false),
        ("hawking.v1.AdminService", false, true),
        ("grpc.health.v1.Health", true, true),
        ("grpc.reflection.v1.ServerReflection", true, true),
        ("grpc.reflection.v1alpha.ServerReflection", true, true),
    ] {
        assert_eq!(
            (has(&public_names, name), has(&private_names, name)),
            (is_public, is_private),
            "{name}: {public_names:?} {private_names:?}"
        );
    }
    for (channel, service, known) in [
        (&private, "hawking.v1.AdminService", true),
        (&private, "", true),
        (&private, "hawking.v1.EventService", false),
        (&public, "hawking.v1.AdminService", false),
    ] {
        let answer = HealthClient::new(channel.clone())
            .check(HealthCheckRequest { service: service.into() })
            .await
            .map(|answer| answer.into_inner().status());
        match answer {
            Ok(status) => assert!(known && status == ServingStatus::Serving, "{service}"),
            Err(status) => assert!(!known && status.code() == Code::NotFound, "{service}: {status}"),
        }
    }
    whole.stop().await;
}

#[tokio::test]
async fn the_server_tells_what_it_is() {
    let whole = Whole::start().await;
    let mut admin = admin(&whole).await;
    let _consumer = whole.subscribe(request(&["call.*.*"])).await;
    let info = admin.get_server_info(proto::GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((info.accounts, info.subscriptions, info.draining), (1, 1, false));
    assert_eq!(info.serving_state(), proto::ServingState::Serving);
    let start = std::time::SystemTime::try_from(info.start_time.unwrap()).unwrap();
    assert!(start.elapsed().unwrap() < PATIENCE);
    whole.stop().await;
}

#[tokio::test]
async fn open_streams_are_listed_with_how_far_they_are() {
    let whole = Whole::start().await;
    let mut admin = admin(&whole).await;
    assert_eq!(subscribers(&mut admin, "").await, []);

    let named =
        proto::SubscribeRequest { client_name: "billing".into(), ..request(&["call.CHANNEL_CREATE.*"]) };
    let mut consumer = whole.subscribe(named).await;
    let mut other = whole.subscribe(request(&["object.*.*", "call.*.*"])).await;
    for call in 0..3 {
        whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", &call.to_string()));
    }
    consumer.events(3).await;
    other.events(3).await;

    let listed = subscribers(&mut admin, ACCOUNT).await;
    let [first, second] = &listed[..] else { panic!("{listed:#?}") };
    assert_eq!(first.subscription_id, consumer.subscribed.subscription_id);
    assert_eq!((&*first.account_id, &*first.client_name), (ACCOUNT, "billing"));
    assert_eq!(first.bindings, ["call.CHANNEL_CREATE.*"]);
    assert!(first.peer.starts_with("127.0.0.1:"), "{}", first.peer);
    assert_eq!((first.lag, first.delivered), (0, 3));
    assert!(first.start_time.is_some());
    assert!(first.position.as_ref().unwrap().sequence > consumer.subscribed.position.unwrap().sequence);
    assert_eq!(second.bindings, ["object.*.*", "call.*.*"], "as they were asked for");
    assert_eq!((second.lag, second.delivered), (0, 3));
    // So that a list of thousands stays a list that can be sent.
    let many: Vec<String> = (0..40).map(|call| format!("call.CHANNEL_CREATE.{call}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let wide = whole.subscribe(request(&many)).await;
    assert_eq!(subscribers(&mut admin, ACCOUNT).await[2].bindings, many[..16], "of many, the first");
    drop(wide);

    let request = proto::ListSubscribersRequest { account_id: STRANGER.into(), ..Default::default() };
    let status = admin.list_subscribers(request).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::NotFound, "ACCOUNT_NOT_CONFIGURED"));
    let request = proto::ListSubscribersRequest { account_id: "x".into(), ..Default::default() };
    let status = admin.list_subscribers(request).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::InvalidArgument, "INVALID_REQUEST"));

    drop(other);
    eventually("it is not listed any more", async || subscribers(&mut admin, "").await.len() == 1).await;
    whole.stop().await;
}

/// Page by page, in the order in which they began; and no page is larger than what any client takes.
#[tokio::test]
async fn streams_are_listed_in_pages() {
    let whole = Whole::start().await;
    let mut admin = admin(&whole).await;
    let mut page = async |page_size, page_token: &str| {
        let page_token = page_token.to_owned();
        let request = proto::ListSubscribersRequest { page_size, page_token, ..Default::default() };
        let page = admin.list_subscribers(request).await.map(tonic::Response::into_inner);
        page.map(|page| {
            let ids = page.subscribers.into_iter().map(|of| of.subscription_id).collect::<Vec<_>>();
            (ids, page.next_page_token)
        })
    };
    assert_eq!(page(0, "").await.unwrap(), (vec![], String::new()));
    let mut consumers = Vec::new();
    for _ in 0..11 {
        consumers.push(whole.subscribe(request(&["call.*.*"])).await);
    }
    let ids = |consumers: &[Consumer]| -> Vec<String> {
        consumers.iter().map(|of| of.subscribed.subscription_id.clone()).collect()
    };
    let (first, next) = page(5, "").await.unwrap();
    assert_eq!((&first, &next), (&ids(&consumers[..5]), &first[4]));
    // What ends and what begins meanwhile moves nobody else.
    let gone: Vec<_> = consumers.drain(3..6).collect();
    drop(gone);
    eventually("they are gone", async || page(0, "").await.unwrap().0 == ids(&consumers)).await;
    consumers.push(whole.subscribe(request(&["call.*.*"])).await);
    let (second, next) = page(5, &next).await.unwrap();
    assert_eq!(second, ids(&consumers[3..8]));
    let (last, next) = page(5, &next).await.unwrap();
    assert_eq!((last, &*next), (ids(&consumers[8..]), ""));
    assert_eq!(page(9, "").await.unwrap(), (ids(&consumers), String::new()), "no page behind the last");
    for (page_size, page_token) in [(-1, ""), (0, "everything")] {
        let status = page(page_size, page_token).await.unwrap_err();
        assert_eq!((status.code(), &*reason(&status)), (Code::InvalidArgument, "INVALID_REQUEST"));
    }

    // As large as they can be.
    let long: Vec<String> =
        (0..16).map(|of| format!("call.CHANNEL_CREATE.{}{of:02}", "x".repeat(1000))).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    for _ in 0..300 {
        consumers.push(whole.subscribe(request(&long)).await);
    }
    let (mut all, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        // A client as it comes: it takes no more than 4 MiB.
        let (ids, next) = page(0, &token).await.unwrap();
        all.extend(ids);
        pages += 1;
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(all, ids(&consumers));
    assert_eq!(pages, 3, "4.8 MB");
    whole.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_disconnected_is_told_where_to_resume() {
    let whole = Whole::start().await;
    let mut admin = admin(&whole).await;
    let mut client = whole.client().await;
    let mut leaves = Consumer::begin(&mut client, request(&["call.*.*"])).await.unwrap();
    let mut stays = Consumer::begin(&mut client, request(&["call.*.*"])).await.unwrap();
    leaves.confirmed().await;
    stays.confirmed().await;
    whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", "a"));
    let last = leaves.event().await.cursor.unwrap();
    stays.event().await;

    let id = leaves.subscribed.subscription_id.clone();
    let disconnect = proto::DisconnectSubscriberRequest { subscription_id: id.clone() };
    admin.disconnect_subscriber(disconnect.clone()).await.unwrap();
    let (messages, status) = leaves.end().await;
    let Some(Kind::Draining(draining)) = messages.last() else { panic!("{messages:?}") };
    assert_eq!(draining.reason(), proto::DrainReason::Operator);
    assert_eq!(draining.position, Some(last.clone()));
    assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "DISCONNECTED"));

    // Nobody else noticed, and it is no longer there.
    whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", "b"));
    assert_eq!(stays.event().await.call_id, "b");
    eventually("it is among the ended", async || ended(&mut admin, 0).await.len() == 1).await;
    let gone = ended(&mut admin, 5).await.remove(0);
    let was = gone.subscriber.unwrap();
    assert_eq!((&*gone.reason, was.subscription_id, was.delivered), ("disconnected", id, 1));
    assert_eq!((was.position, was.lag), (Some(last.clone()), 0));
    assert!(gone.end_time.is_some());

    // It comes back where it left.
    let resume = proto::SubscribeRequest {
        start: Some(proto::subscribe_request::Start::ResumeAfter(last)),
        ..request(&["call.*.*"])
    };
    let mut again = Consumer::begin(&mut client, resume).await.unwrap();
    assert_eq!(again.event().await.call_id, "b");

    let status = admin.disconnect_subscriber(disconnect).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::NotFound, "SUBSCRIPTION_NOT_FOUND"));
    let nonsense = proto::DisconnectSubscriberRequest { subscription_id: "all of them".into() };
    let status = admin.disconnect_subscriber(nonsense).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::InvalidArgument, "INVALID_REQUEST"));
    let negative = admin.list_ended_streams(proto::ListEndedStreamsRequest { limit: -1 }).await.unwrap_err();
    assert_eq!(negative.code(), Code::InvalidArgument);
    whole.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_with_what_they_hold_and_brought() {
    let whole = Whole::with(Settings::default(), quick_rotation).await;
    let mut admin = admin(&whole).await;
    let _consumer = whole.subscribe(request(&["call.*.*"])).await;
    let leaves = whole.subscribe(request(&["object.*.user"])).await;
    for call in ["a", "b"] {
        let event = Event::call(whole.account(), "CHANNEL_CREATE", call);
        whole.publish(&event);
    }
    eventually("both came", async || sessions(&mut admin, "").await[0].events_received == 2).await;
    let listed = sessions(&mut admin, ACCOUNT).await;
    let [session] = &listed[..] else { panic!("{listed:#?}") };
    assert_eq!((&*session.account_id, &*session.session_id), (ACCOUNT, "1"));
    assert_eq!(held(session), ["+call.*.*", "+object.*.user"]);
    assert!(session.bindings.iter().all(|of| of.confirm_time.is_some() && of.account_id == ACCOUNT));
    assert!(session.connect_time.is_some() && !session.successor);
    let status = session.status.as_ref().unwrap();
    assert_eq!((status.state(), &*status.flavour), (proto::UpstreamState::Live, "k4"));

    // What nobody wants any more cannot be given back.
    drop(leaves);
    eventually("it is superfluous", async || {
        held(&sessions(&mut admin, ACCOUNT).await[0]) == ["+call.*.*", "-object.*.user"]
    })
    .await;
    whole.stop().await;
}

#[tokio::test]
async fn an_account_without_a_session_is_listed_with_the_reason() {
    let wrong = |config: &mut Config| {
        config.accounts[0].credentials = Credentials::ApiKey { key: "of nobody".into() };
    };
    let whole = Whole::with(Settings::default(), wrong).await;
    let mut admin = admin(&whole).await;
    eventually("it is down", async || {
        let listed = sessions(&mut admin, "").await;
        let status = listed[0].status.clone().unwrap();
        listed.len() == 1 && status.state() == proto::UpstreamState::Down
    })
    .await;
    let listed = sessions(&mut admin, ACCOUNT).await;
    assert_eq!((&*listed[0].session_id, listed[0].bindings.len()), ("", 0));
    assert!(listed[0].status.as_ref().unwrap().detail.contains("credentials"), "{listed:?}");

    // There is nothing to rotate; but it can be tried at once, long before it would be.
    let status = admin.rotate_upstream(proto::RotateUpstreamRequest { account_id: ACCOUNT.into() }).await;
    let status = status.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::FailedPrecondition, "NO_SESSION"));
    let logins = || whole.sim.record().iter().filter(|exchange| is_login(exchange)).count();
    let before = logins();
    admin.reconnect_upstream(proto::ReconnectUpstreamRequest { account_id: ACCOUNT.into() }).await.unwrap();
    eventually("it logs in again", async || logins() > before).await;
    whole.stop().await;
}

fn is_login(exchange: &hawking::sim::Exchange) -> bool {
    matches!(&exchange.what, hawking::sim::Happening::Crossbar { path, .. } if path.ends_with("_auth"))
}

#[tokio::test]
async fn a_session_is_rotated_without_a_gap_and_only_one_at_a_time() {
    let whole = Whole::with(Settings::default(), quick_rotation).await;
    let mut admin = admin(&whole).await;
    let mut consumer = whole.subscribe(request(&["call.*.*"])).await;
    let rotate = proto::RotateUpstreamRequest { account_id: ACCOUNT.into() };
    admin.rotate_upstream(rotate.clone()).await.unwrap();
    let status = admin.rotate_upstream(rotate.clone()).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::FailedPrecondition, "ROTATION_UNDER_WAY"));
    let reconnect = proto::ReconnectUpstreamRequest { account_id: ACCOUNT.into() };
    let status = admin.reconnect_upstream(reconnect).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::FailedPrecondition, "ROTATION_UNDER_WAY"));

    eventually("both are there", async || {
        let listed = sessions(&mut admin, ACCOUNT).await;
        let told: Vec<_> = listed.iter().map(|session| (&*session.session_id, session.successor)).collect();
        told == [("1", false), ("2", true)] && held(&listed[1]) == ["+call.*.*"]
    })
    .await;
    whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", "over both"));
    eventually("the second copy is known", async || {
        let listed = sessions(&mut admin, ACCOUNT).await;
        listed.iter().map(|session| session.duplicates).sum::<u64>() == 1
    })
    .await;
    only_session(&mut admin, "2").await;
    whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", "over the new one"));
    // `event` takes no gap.
    assert_eq!(consumer.event().await.call_id, "over both");
    assert_eq!(consumer.event().await.call_id, "over the new one");
    admin.rotate_upstream(rotate).await.unwrap();
    only_session(&mut admin, "3").await;
    whole.stop().await;
}

#[tokio::test]
async fn a_session_is_opened_anew_with_a_gap() {
    let whole = Whole::with(Settings::default(), quick_rotation).await;
    let mut admin = admin(&whole).await;
    let mut consumer = whole.subscribe(request(&["call.*.*"])).await;
    admin.reconnect_upstream(proto::ReconnectUpstreamRequest { account_id: ACCOUNT.into() }).await.unwrap();
    let is_closed = |kind: &Kind| matches!(kind, Kind::Gap(gap) if gap.before.is_some());
    let messages = consumer.until(is_closed).await;
    let Some(Kind::Gap(gap)) = messages.last() else { panic!("{messages:?}") };
    assert_eq!(gap.reason(), proto::GapReason::UpstreamDisconnected);
    only_session(&mut admin, "2").await;
    whole.stop().await;
}

#[tokio::test]
async fn who_has_no_session_cannot_be_steered() {
    let whole = Whole::start().await;
    let mut admin = admin(&whole).await;
    // Below the configured one.
    let below = "account0000000000000000000000004";
    let mut client = whole.client().await;
    // It is served as soon as Crossbar has told of it, also before anybody asks for its events.
    eventually("it is listed", async || {
        let listed = client.clone().list_accounts(proto::ListAccountsRequest::default()).await.unwrap();
        listed.into_inner().accounts.iter().any(|account| account.account_id == below)
    })
    .await;
    let rotate = proto::RotateUpstreamRequest { account_id: below.into() };
    let status = admin.rotate_upstream(rotate).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::NotFound, "ACCOUNT_NOT_CONFIGURED"));
    assert!(status.message().contains(ACCOUNT), "who has the session is told: {}", status.message());

    let child = proto::SubscribeRequest { account_id: below.into(), ..request(&["call.*.*"]) };
    let mut consumer = Consumer::begin(&mut client, child).await.unwrap();
    consumer.confirmed().await;
    let listed = sessions(&mut admin, "").await;
    let accounts: Vec<_> = listed[0].bindings.iter().map(|of| &*of.account_id).collect();
    assert_eq!(accounts, [below], "whose bindings they are is told");
    assert_eq!(subscribers(&mut admin, below).await.len(), 1);

    for (account_id, code, why) in [
        (STRANGER, Code::NotFound, "ACCOUNT_NOT_CONFIGURED"),
        (below, Code::NotFound, "ACCOUNT_NOT_CONFIGURED"),
        ("nobody", Code::InvalidArgument, "INVALID_REQUEST"),
        ("", Code::InvalidArgument, "INVALID_REQUEST"),
    ] {
        let account_id = account_id.to_owned();
        let rotate = proto::RotateUpstreamRequest { account_id: account_id.clone() };
        let reconnect = proto::ReconnectUpstreamRequest { account_id: account_id.clone() };
        let list = proto::ListUpstreamSessionsRequest { account_id: account_id.clone() };
        let mut answers = vec![
            admin.rotate_upstream(rotate).await.map(drop),
            admin.reconnect_upstream(reconnect).await.map(drop),
        ];
        if !account_id.is_empty() {
            answers.push(admin.list_upstream_sessions(list).await.map(drop));
        }
        for answer in answers {
            let status = answer.unwrap_err();
            assert_eq!((status.code(), &*reason(&status)), (code, why), "{account_id}");
            assert_eq!(status.message().contains(ACCOUNT), account_id == below, "{}", status.message());
        }
    }
    whole.stop().await;
}

#[tokio::test]
async fn a_drain_ends_streams_and_the_operator_sees_it() {
    let whole = Whole::start().await;
    let mut admin = admin(&whole).await;
    let mut consumer = whole.subscribe(request(&["call.*.*"])).await;
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let status = admin.drain(proto::DrainRequest { deadline: Some(negative) }).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::InvalidArgument, "INVALID_REQUEST"));

    let deadline = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    admin.drain(proto::DrainRequest { deadline }).await.unwrap();
    let (messages, status) = consumer.end().await;
    let Some(Kind::Draining(draining)) = messages.last() else { panic!("{messages:?}") };
    assert_eq!(draining.reason(), proto::DrainReason::Operator);
    assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "DRAINING"));
    eventually("the streams are gone", async || {
        let info = admin.get_server_info(proto::GetServerInfoRequest {}).await.unwrap().into_inner();
        assert!(info.draining, "{info:?}");
        info.serving_state() == proto::ServingState::Drained && info.subscriptions == 0
    })
    .await;
    assert_eq!(ended(&mut admin, 0).await[0].reason, "drained");
    // Twice is once; and the sessions stay.
    admin.drain(proto::DrainRequest::default()).await.unwrap();
    only_session(&mut admin, "1").await;
    whole.stop().await;
}
