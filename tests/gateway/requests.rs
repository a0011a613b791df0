//! Bad requests: the status of the contract, by name; and nobody else notices.

use hawking::proto::{self, subscribe_request::Start};
use prost::Message;
use tonic::Code;
use tonic_types::StatusExt;

use super::harness::*;

/// All of row by row is a unit test beside `limits`; here it is the way over the wire that is looked at.
#[tokio::test]
async fn bad_requests_are_refused_by_name_and_disturb_nobody() {
    let server = Direct::start().await;
    let mut bystander = server.subscribe(request(&["call.*.*"])).await;
    // On the same connection too.
    let mut client = server.client().await;
    let mut neighbour = Consumer::begin(&mut client, request(&["call.CHANNEL_CREATE.*"])).await.unwrap();

    let of = |bindings: &[&str]| request(bindings);
    let long = format!("call.CHANNEL_CREATE.{}", "x".repeat(1005));
    let many = proto::SubscribeRequest {
        bindings: (0..1001).map(|index| format!("call.CHANNEL_CREATE.{index}")).collect(),
        ..of(&[])
    };
    let filter = |path: &str| proto::SubscribeRequest {
        filter: Some(proto::EventFilter {
            fields: vec![proto::FieldFilter { path: path.into(), values: vec!["v".into()] }],
            ..Default::default()
        }),
        ..of(&["call.*.*"])
    };
    let cursor = proto::Cursor { epoch: "0123456789abcdef".into(), sequence: 1 };
    let far = prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 };
    let newest = bystander.subscribed.replay_window.clone().unwrap().newest.unwrap();
    let above = proto::Cursor { sequence: newest.sequence + 1_000, ..newest };
    let start = |start| proto::SubscribeRequest { start: Some(start), ..of(&["call.*.*"]) };
    let table = [
        (
            "unknown account",
            proto::SubscribeRequest { account_id: STRANGER.into(), ..of(&["call.*.*"]) },
            Code::NotFound,
            "ACCOUNT_NOT_CONFIGURED",
            None,
        ),
        ("no bindings", of(&[]), Code::InvalidArgument, "INVALID_BINDING", Some("bindings")),
        ("empty", of(&["call.*.*", ""]), Code::InvalidArgument, "INVALID_BINDING", Some("bindings[1]")),
        ("unknown", of(&["weather.*"]), Code::InvalidArgument, "INVALID_BINDING", Some("bindings[0]")),
        ("over-long", of(&[&long]), Code::InvalidArgument, "INVALID_BINDING", Some("bindings[0]")),
        ("call", of(&["call"]), Code::InvalidArgument, "INVALID_BINDING", Some("bindings[0]")),
        ("call.X", of(&["call.X"]), Code::InvalidArgument, "INVALID_BINDING", Some("bindings[0]")),
        (
            "all modules",
            of(&["*.CHANNEL_CREATE.*"]),
            Code::InvalidArgument,
            "INVALID_BINDING",
            Some("bindings[0]"),
        ),
        ("#", of(&["#"]), Code::InvalidArgument, "INVALID_BINDING", Some("bindings[0]")),
        (
            "commands",
            of(&["conference.command.*"]),
            Code::InvalidArgument,
            "INVALID_BINDING",
            Some("bindings[0]"),
        ),
        (
            "control characters",
            of(&["call.CHANNEL_CREATE.\u{1}"]),
            Code::InvalidArgument,
            "INVALID_BINDING",
            Some("bindings[0]"),
        ),
        ("1001 bindings", many, Code::InvalidArgument, "INVALID_BINDING", Some("bindings")),
        ("path", filter("a..b"), Code::InvalidArgument, "INVALID_FILTER", Some("filter.fields[0].path")),
        (
            "enum",
            proto::SubscribeRequest { payload_format: 42, ..of(&["call.*.*"]) },
            Code::InvalidArgument,
            "INVALID_REQUEST",
            Some("payload_format"),
        ),
        ("other epoch", start(Start::ResumeAfter(cursor)), Code::OutOfRange, "EPOCH_CHANGED", None),
        (
            "above the newest",
            start(Start::ResumeAfter(above)),
            Code::InvalidArgument,
            "INVALID_CURSOR",
            Some("resume_after.sequence"),
        ),
        ("future", start(Start::StartTime(far)), Code::InvalidArgument, "INVALID_TIME", Some("start_time")),
    ];
    for (what, request, code, expected, field) in table {
        let status = match Consumer::begin(&mut client, request).await {
            Err(status) => status,
            Ok(_) => panic!("{what} was let in"),
        };
        assert_eq!((status.code(), &*reason(&status)), (code, expected), "{what}: {status:?}");
        if let Some(field) = field {
            let details = status.get_error_details();
            assert_eq!(details.bad_request().unwrap().field_violations[0].field, field, "{what}");
        }
    }

    assert_eq!(server.account.status().subscriptions, 2, "none of them left anything behind");
    server.call("CHANNEL_CREATE", "still here");
    assert_eq!(bystander.event().await.call_id, "still here");
    assert_eq!(neighbour.event().await.call_id, "still here");
}

/// 1001 faults in one request make one small status.
#[tokio::test]
async fn a_status_stays_small() {
    let server = Direct::start().await;
    let bindings: Vec<_> = (0..1000).map(|index| format!("weather.{index}.{}", "ü".repeat(500))).collect();
    let mut bad = request(&[]);
    bad.bindings = bindings;
    let Err(status) = Consumer::begin(&mut server.client().await, bad).await else { panic!("let in") };
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.details().len() < 6_000, "{}", status.details().len());
    assert!(status.message().len() < 500, "{}", status.message());
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    let server = Direct::start().await;
    let good = request(&["call.*.*"]).encode_to_vec();
    let framed = |flag: u8, message: &[u8]| {
        let length = u32::try_from(message.len()).unwrap();
        [&[flag][..], &length.to_be_bytes(), message].concat()
    };
    let big = framed(0, &vec![0; settings().max_request_bytes + 1]);
    for (what, headers, body, code) in [
        ("nothing", vec![], Vec::new(), Code::InvalidArgument),
        ("half a prefix", vec![], vec![0, 0, 0], Code::InvalidArgument),
        ("cut short", vec![], framed(0, &good)[..10].to_vec(), Code::InvalidArgument),
        ("two messages", vec![], [framed(0, &good), framed(0, &good)].concat(), Code::InvalidArgument),
        ("no protobuf", vec![], framed(0, b"\xff\xff\xff"), Code::InvalidArgument),
        ("too long", vec![], big, Code::InvalidArgument),
        ("compressed", vec![("grpc-encoding", "gzip")], framed(1, &good), Code::Unimplemented),
        ("bad timeout", vec![("grpc-timeout", "soon")], framed(0, &good), Code::InvalidArgument),
    ] {
        let response = post(&server, &headers, body).await;
        assert_eq!(response.status(), http::StatusCode::OK, "{what}");
        let status = tonic::Status::from_header_map(response.headers()).expect("trailers only");
        assert_eq!(status.code(), code, "{what}: {status:?}");
        assert!(!reason(&status).is_empty(), "{what}");
    }
}

#[tokio::test]
async fn what_is_no_grpc_is_refused() {
    let server = Direct::start().await;
    let response = post(&server, &[("content-type", "application/json")], b"{}".to_vec()).await;
    assert_eq!(response.status(), http::StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

/// Posts to `Subscribe` as no gRPC library would.
async fn post(
    server: &Direct,
    headers: &[(&'static str, &str)],
    body: Vec<u8>,
) -> http::Response<tonic::body::Body> {
    let mut request =
        http::Request::post(format!("http://{}/hawking.v1.EventService/Subscribe", server.addr));
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = tonic::body::Body::new(http_body_util::Full::new(bytes::Bytes::from(body)));
    let mut channel = channel(server.addr).await;
    std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx)).await.expect("connected");
    let answer = tower::Service::call(&mut channel, request.body(body).expect("a request"));
    soon("an answer", answer).await.expect("an answer")
}
