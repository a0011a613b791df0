//! The unary calls, health and reflection.

use hawking::{ops::drain::Reason, proto};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use super::harness::*;

#[tokio::test]
async fn an_account_tells_how_it_stands() {
    let server = Direct::start().await;
    let mut consumer = server.subscribe(request(&["call.*.*"])).await;
    server.call("CHANNEL_CREATE", "a");
    consumer.event().await;

    let mut client = server.client().await;
    let asked = proto::GetAccountStatusRequest { account_id: ACCOUNT.into() };
    let status = client.get_account_status(asked).await.unwrap().into_inner();
    assert_eq!(status.account_id, ACCOUNT);
    assert_eq!(status.served_by_account_id, ACCOUNT);
    assert_eq!((status.subscriptions, status.views), (1, 1));
    assert!(status.log_records >= 1 && status.log_bytes > 0, "{status:?}");
    let interest: Vec<_> = status.interest.iter().map(|of| (&*of.binding, of.state())).collect();
    assert_eq!(interest, [("call.*.*", proto::BindingState::Active)]);
    let upstream = status.upstream_status.unwrap();
    assert_eq!((upstream.state(), &*upstream.flavour), (proto::UpstreamState::Live, "k4"));

    for (account_id, code) in
        [(STRANGER, Code::NotFound), ("x", Code::InvalidArgument), ("", Code::InvalidArgument)]
    {
        let asked = proto::GetAccountStatusRequest { account_id: account_id.into() };
        let status = client.get_account_status(asked).await.unwrap_err();
        assert_eq!(status.code(), code, "{account_id}");
        assert!(!reason(&status).is_empty());
    }
}

#[tokio::test]
async fn accounts_come_in_pages() {
    let server = Direct::start().await;
    let more: Vec<_> = (10..15).map(|index| format!("account0000000000000000000000{index:03}")).collect();
    for id in &more {
        server.hub.add(account_id(id), account_id(ACCOUNT), Vec::new());
    }
    let mut client = server.client().await;
    let mut page = async |page_size, page_token: &str| {
        let asked = proto::ListAccountsRequest { page_size, page_token: page_token.into() };
        let page = client.list_accounts(asked).await.unwrap().into_inner();
        let ids: Vec<_> = page.accounts.into_iter().map(|account| account.account_id).collect();
        (ids, page.next_page_token)
    };
    let (all, end) = page(0, "").await;
    assert_eq!((all.len(), &*end), (6, ""));
    assert!(all.is_sorted());

    let mut pieces = Vec::new();
    let mut token = String::new();
    let mut pages = 0;
    loop {
        let (ids, next) = page(2, &token).await;
        pieces.extend(ids);
        pages += 1;
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!((pieces, pages), (all.clone(), 3));
    // An account that is gone in between loses its place, not the list.
    server.hub.remove(&account_id(&more[0]));
    assert_eq!(page(0, &more[0]).await.0, more[1..]);
}

#[tokio::test]
async fn binding_types_can_be_pasted() {
    let server = Direct::start().await;
    let mut client = server.client().await;
    let types = client.list_binding_types(proto::ListBindingTypesRequest {}).await.unwrap().into_inner();
    assert!(types.binding_types.len() >= 5);
    for of in types.binding_types {
        assert_ne!(of.category(), proto::EventCategory::Unspecified, "{}", of.template);
        assert!(!of.description.is_empty() && !of.flavours.is_empty(), "{}", of.template);
        for example in of.examples.iter().filter(|_| !of.requires_opt_in) {
            let subscribed = Consumer::begin(&mut client, request(&[example])).await;
            assert!(subscribed.is_ok(), "{example}: {:?}", subscribed.err());
        }
    }
}

#[tokio::test]
async fn health_is_serving_whatever_the_upstream_does() {
    let mut server = Direct::start().await;
    let mut client = HealthClient::new(channel(server.addr).await);
    for service in ["", "hawking.v1.EventService"] {
        let asked = HealthCheckRequest { service: service.into() };
        let answer = client.check(asked).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = client.check(HealthCheckRequest { service: "weather".into() }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);

    // Who watches is told of the drain, and let go.
    let mut watch = client
        .watch(HealthCheckRequest { service: "hawking.v1.EventService".into() })
        .await
        .unwrap()
        .into_inner();
    let next = soon("the state now", watch.message()).await.unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::Serving);
    server.drain.begin(Reason::Shutdown, None);
    let next = soon("the drain", watch.message()).await.unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::NotServing);
    let end = soon("the end", watch.message()).await.unwrap_err();
    assert_eq!((end.code(), &*reason(&end)), (Code::Unavailable, "DRAINING"));
    server.ended().await;
}

const SERVED: [&str; 4] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "hawking.v1.EventService",
];
/// Without the last two, clients print the details of errors as base64.
const SYMBOLS: [&str; 5] = [
    "hawking.v1.EventService",
    "hawking.v1.CallEvent",
    "grpc.health.v1.Health",
    "google.rpc.ErrorInfo",
    "google.rpc.BadRequest",
];

#[tokio::test]
async fn reflection_v1() {
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;

    let server = Direct::start().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel(server.addr).await);
    let list = MessageRequest::ListServices(String::new());
    let symbols = SYMBOLS.map(|symbol| MessageRequest::FileContainingSymbol(symbol.into()));
    let requests = std::iter::once(list)
        .chain(symbols)
        .map(|message| v1::ServerReflectionRequest { host: String::new(), message_request: Some(message) });
    let requests: Vec<_> = requests.collect();
    let mut answers =
        client.server_reflection_info(futures_util::stream::iter(requests)).await.unwrap().into_inner();
    let first = soon("a list", answers.message()).await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = first else { panic!("{first:?}") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(names, SERVED);
    for symbol in SYMBOLS {
        let answer = soon("a file", answers.message()).await.unwrap().unwrap().message_response;
        assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{symbol}: {answer:?}");
    }
}

#[tokio::test]
async fn reflection_v1alpha() {
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;

    let server = Direct::start().await;
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(channel(server.addr).await);
    let list = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(futures_util::stream::iter([list])).await;
    let first = answers.unwrap().into_inner().message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = first else { panic!("{first:?}") };
    assert_eq!(list.service.len(), SERVED.len());
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let server = Direct::start().await;
    let mut client = proto::admin_service_client::AdminServiceClient::new(channel(server.addr).await);
    let status = client.get_server_info(proto::GetServerInfoRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "the admin service is not for consumers");
}
