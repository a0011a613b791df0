use tonic::Code;
use tonic_types::StatusExt;

use super::*;
use crate::proto::subscribe_request::Start as RequestedStart;

const ACCOUNT: &str = "account0000000000000000000000002";

fn good() -> proto::SubscribeRequest {
    proto::SubscribeRequest {
        account_id: ACCOUNT.into(),
        bindings: vec!["call.CHANNEL_CREATE.*".into()],
        ..Default::default()
    }
}

fn read(request: proto::SubscribeRequest) -> Result<Subscribe, Status> {
    subscribe(request, &config::Grpc::default(), &OptIn::default())
}

fn with_bindings<T: Into<String>>(bindings: impl IntoIterator<Item = T>) -> proto::SubscribeRequest {
    proto::SubscribeRequest { bindings: bindings.into_iter().map(Into::into).collect(), ..good() }
}

fn with_filter(filter: proto::EventFilter) -> proto::SubscribeRequest {
    proto::SubscribeRequest { filter: Some(filter), ..good() }
}

fn with_path(path: &str) -> proto::SubscribeRequest {
    with_field(proto::FieldFilter { path: path.into(), values: vec!["v".into()] })
}

fn with_field(field: proto::FieldFilter) -> proto::SubscribeRequest {
    with_filter(proto::EventFilter { fields: vec![field], ..Default::default() })
}

fn with_cursor(epoch: &str) -> proto::SubscribeRequest {
    let cursor = proto::Cursor { epoch: epoch.into(), sequence: 1 };
    proto::SubscribeRequest { start: Some(RequestedStart::ResumeAfter(cursor)), ..good() }
}

fn with_time(seconds: i64, nanos: i32) -> proto::SubscribeRequest {
    proto::SubscribeRequest { start: Some(RequestedStart::StartTime(Timestamp { seconds, nanos })), ..good() }
}

fn with_heartbeat(seconds: i64, nanos: i32) -> proto::SubscribeRequest {
    proto::SubscribeRequest { heartbeat_interval: Some(prost_types::Duration { seconds, nanos }), ..good() }
}

fn texts(count: usize, bytes: usize) -> Vec<String> {
    (0..count).map(|index| format!("{index:0bytes$}")).collect()
}

/// Each bad request gets INVALID_ARGUMENT, the reason, and the field by name.
#[test]
fn bad_requests() {
    let long = |bytes: usize| format!("call.CHANNEL_CREATE.{}", "x".repeat(bytes - 20));
    let request = proto::SubscribeRequest::default();
    let table: Vec<(&str, proto::SubscribeRequest, &str, &str)> = vec![
        (
            "no account",
            proto::SubscribeRequest { account_id: "".into(), ..good() },
            "INVALID_REQUEST",
            "account_id",
        ),
        (
            "short account",
            proto::SubscribeRequest { account_id: "a".into(), ..good() },
            "INVALID_REQUEST",
            "account_id",
        ),
        (
            "database account",
            proto::SubscribeRequest { account_id: "account%2Fac%2Fco%2Funt000000000".into(), ..good() },
            "INVALID_REQUEST",
            "account_id",
        ),
        ("no binding", with_bindings::<String>([]), "INVALID_BINDING", "bindings"),
        ("empty", with_bindings([""]), "INVALID_BINDING", "bindings[0]"),
        ("unknown", with_bindings(["call.*.*", "nonsense.a.b"]), "INVALID_BINDING", "bindings[1]"),
        ("overlong", with_bindings([long(1025)]), "INVALID_BINDING", "bindings[0]"),
        ("call", with_bindings(["call"]), "INVALID_BINDING", "bindings[0]"),
        ("call.X", with_bindings(["call.X"]), "INVALID_BINDING", "bindings[0]"),
        ("all modules", with_bindings(["*.CHANNEL_CREATE.*"]), "INVALID_BINDING", "bindings[0]"),
        ("#", with_bindings(["#"]), "INVALID_BINDING", "bindings[0]"),
        ("call.#", with_bindings(["call.#"]), "INVALID_BINDING", "bindings[0]"),
        ("call.*.#", with_bindings(["call.*.#"]), "INVALID_BINDING", "bindings[0]"),
        ("commands", with_bindings(["conference.command.*"]), "INVALID_BINDING", "bindings[0]"),
        ("a command", with_bindings(["conference.command.conf1"]), "INVALID_BINDING", "bindings[0]"),
        ("control", with_bindings(["call.CHANNEL_CREATE.a\u{7}b"]), "INVALID_BINDING", "bindings[0]"),
        ("newline", with_bindings(["call.CHANNEL_CREATE.*\n"]), "INVALID_BINDING", "bindings[0]"),
        ("NUL", with_bindings(["call.CHANNEL_CREATE.\0"]), "INVALID_BINDING", "bindings[0]"),
        (
            "1001 bindings",
            with_bindings((0..1001).map(|index| format!("call.CHANNEL_CREATE.{index}"))),
            "INVALID_BINDING",
            "bindings",
        ),
        ("empty path", with_path(""), "INVALID_FILTER", "filter.fields[0].path"),
        ("dots", with_path("a..b"), "INVALID_FILTER", "filter.fields[0].path"),
        ("leading dot", with_path(".a"), "INVALID_FILTER", "filter.fields[0].path"),
        ("trailing dot", with_path("a."), "INVALID_FILTER", "filter.fields[0].path"),
        ("nine keys", with_path("a.b.c.d.e.f.g.h.i"), "INVALID_FILTER", "filter.fields[0].path"),
        ("long path", with_path(&"a".repeat(257)), "INVALID_FILTER", "filter.fields[0].path"),
        ("control in path", with_path("a\tb"), "INVALID_FILTER", "filter.fields[0].path"),
        (
            "no values",
            with_field(proto::FieldFilter { path: "a".into(), values: vec![] }),
            "INVALID_FILTER",
            "filter.fields[0].values",
        ),
        (
            "101 values",
            with_field(proto::FieldFilter { path: "a".into(), values: texts(101, 4) }),
            "INVALID_FILTER",
            "filter.fields[0].values",
        ),
        (
            "long value",
            with_field(proto::FieldFilter { path: "a".into(), values: texts(2, 1025) }),
            "INVALID_FILTER",
            "filter.fields[0].values[0]",
        ),
        (
            "21 fields",
            with_filter(proto::EventFilter {
                fields: vec![proto::FieldFilter { path: "a".into(), values: vec!["v".into()] }; 21],
                ..Default::default()
            }),
            "INVALID_FILTER",
            "filter.fields",
        ),
        (
            "101 names",
            with_filter(proto::EventFilter { names: texts(101, 4), ..Default::default() }),
            "INVALID_FILTER",
            "filter.names",
        ),
        (
            "empty name",
            with_filter(proto::EventFilter { names: vec!["a".into(), "".into()], ..Default::default() }),
            "INVALID_FILTER",
            "filter.names[1]",
        ),
        (
            "1001 call ids",
            with_filter(proto::EventFilter { call_ids: texts(1001, 4), ..Default::default() }),
            "INVALID_FILTER",
            "filter.call_ids",
        ),
        (
            "policy",
            proto::SubscribeRequest { replay_miss_policy: 3, ..good() },
            "INVALID_REQUEST",
            "replay_miss_policy",
        ),
        (
            "overflow",
            proto::SubscribeRequest { overflow_policy: -1, ..good() },
            "INVALID_REQUEST",
            "overflow_policy",
        ),
        (
            "format",
            proto::SubscribeRequest { payload_format: 99, ..good() },
            "INVALID_REQUEST",
            "payload_format",
        ),
        ("empty epoch", with_cursor(""), "INVALID_CURSOR", "resume_after.epoch"),
        ("long epoch", with_cursor(&"a".repeat(65)), "INVALID_CURSOR", "resume_after.epoch"),
        ("odd epoch", with_cursor("yesterday"), "INVALID_CURSOR", "resume_after.epoch"),
        ("year 10000", with_time(253_402_300_800, 0), "INVALID_TIME", "start_time"),
        ("year 0", with_time(-62_135_596_801, 0), "INVALID_TIME", "start_time"),
        ("far time", with_time(i64::MAX, 0), "INVALID_TIME", "start_time"),
        ("negative nanos", with_time(0, -1), "INVALID_TIME", "start_time"),
        ("nanos", with_time(0, 1_000_000_000), "INVALID_TIME", "start_time"),
        ("negative heartbeat", with_heartbeat(-1, 0), "INVALID_REQUEST", "heartbeat_interval"),
        ("negative heartbeat nanos", with_heartbeat(0, -1), "INVALID_REQUEST", "heartbeat_interval"),
        (
            "client name",
            proto::SubscribeRequest { client_name: "é".repeat(129), ..good() },
            "INVALID_REQUEST",
            "client_name",
        ),
        (
            "client name with control characters",
            proto::SubscribeRequest { client_name: "a\u{1b}[2J".into(), ..good() },
            "INVALID_REQUEST",
            "client_name",
        ),
        ("nothing at all: two faults", request, "INVALID_REQUEST", "account_id"),
    ];
    for (what, request, reason, field) in table {
        let status = read(request).expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, reason, "{what}: {status:?}");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field, "{what}");
    }
}

#[test]
fn all_faults_at_once() {
    let request = proto::SubscribeRequest {
        account_id: "a".into(),
        bindings: vec!["call".into(), "call.*.*".into(), "#".into()],
        payload_format: 99,
        ..good()
    };
    let status = read(request).unwrap_err();
    let details = status.get_error_details();
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|v| &*v.field).collect();
    assert_eq!(fields, ["account_id", "bindings[0]", "bindings[2]", "payload_format"]);
}

#[test]
fn defaults() {
    let settings = config::Grpc::default();
    let request = read(good()).unwrap();
    assert_eq!(request.account.as_str(), ACCOUNT);
    let spec = request.spec;
    assert_eq!(spec.start, Start::Live);
    assert_eq!(spec.miss_policy, ReplayMissPolicy::Fail);
    assert_eq!(spec.overflow_policy, OverflowPolicy::Disconnect);
    assert_eq!(spec.format, PayloadFormat::Json);
    assert_eq!(spec.filter, EventFilter::default());
    assert_eq!(spec.heartbeat_interval, settings.heartbeat_default);
    assert!(!spec.require_all_bindings);
}

#[test]
fn bounds_are_included() {
    let long = format!("call.CHANNEL_CREATE.{}", "x".repeat(1004));
    assert_eq!(long.len(), 1024);
    read(with_bindings([long])).unwrap();
    let request = with_bindings((0..1000).map(|index| format!("call.CHANNEL_CREATE.{index}")));
    assert_eq!(read(request).unwrap().spec.bindings.len(), 1000);
    read(with_path("a.b.c.d.e.f.g.h")).unwrap();
    read(with_path(&"a".repeat(256))).unwrap();
    read(with_field(proto::FieldFilter { path: "a".into(), values: texts(100, 1024) })).unwrap();
    read(with_filter(proto::EventFilter {
        names: texts(100, 256),
        call_ids: texts(1000, 1024),
        ..Default::default()
    }))
    .unwrap();
    read(proto::SubscribeRequest { client_name: "é".repeat(128), ..good() }).unwrap();
}

#[test]
fn bindings_are_sorted_and_told_as_requested() {
    let request =
        read(with_bindings(["call.CHANNEL_DESTROY.*", "call.CHANNEL_CREATE.*", "call.CHANNEL_DESTROY.*"]));
    let request = request.unwrap();
    let bindings: Vec<_> = request.spec.bindings.iter().map(Binding::as_str).collect();
    assert_eq!(bindings, ["call.CHANNEL_CREATE.*", "call.CHANNEL_DESTROY.*"]);
    let requested: Vec<_> = request.requested.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(requested, ["call.CHANNEL_DESTROY.*", "call.CHANNEL_CREATE.*", "call.CHANNEL_DESTROY.*"]);
}

#[test]
fn equal_filters_become_equal() {
    let field = |path: &str, values: [&str; 2]| proto::FieldFilter {
        path: path.into(),
        values: values.map(str::to_owned).to_vec(),
    };
    let one = read(with_filter(proto::EventFilter {
        names: vec!["b".into(), "a".into(), "b".into()],
        call_ids: vec![],
        fields: vec![field("x.y", ["2", "1"]), field("a", ["1", "1"])],
    }));
    let two = read(with_filter(proto::EventFilter {
        names: vec!["a".into(), "b".into()],
        call_ids: vec![],
        fields: vec![field("a", ["1", "1"]), field("x.y", ["1", "2"]), field("a", ["1", "1"])],
    }));
    let (one, two) = (one.unwrap().spec.filter, two.unwrap().spec.filter);
    assert_eq!(one, two);
    assert_eq!(one.fields[1].path, ["x", "y"]);
}

#[test]
fn heartbeats_are_held_within_bounds() {
    let settings = config::Grpc::default();
    let interval = |seconds, nanos| read(with_heartbeat(seconds, nanos)).unwrap().spec.heartbeat_interval;
    assert_eq!(interval(0, 0), settings.heartbeat_min);
    assert_eq!(interval(0, 1), settings.heartbeat_min);
    assert_eq!(interval(2, 500_000_000), Duration::from_millis(2500));
    assert_eq!(interval(i64::MAX, 0), settings.heartbeat_max);
}

#[test]
fn starts() {
    let start = |request| read(request).unwrap().spec.start;
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_790_000_000, 5);
    assert_eq!(start(with_time(1_790_000_000, 5)), Start::At(time));
    let Start::After(cursor) = start(with_cursor("00000000000000ff")) else { panic!("no cursor") };
    assert_eq!(cursor.to_string(), "00000000000000ff:1");
}

#[test]
fn pages() {
    let page = |size, token| page::<AccountId>(size, token, 100);
    assert_eq!(page(0, "").unwrap(), Page { size: 100, after: None });
    assert_eq!(page(5000, ACCOUNT).unwrap(), Page { size: 1000, after: Some(ACCOUNT.parse().unwrap()) });
    for ((size, token), field) in [((-1, ""), "page_size"), ((0, "x"), "page_token")] {
        let status = page(size, token).unwrap_err();
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, field);
    }
}
