//! What a scraper gets, after real traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hawking::{
    config,
    proto::{self, subscribe_response::Kind},
    sim::{Event, Settings},
};
use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use super::{admin_http::page, harness::*, whole::Whole};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

/// A metric, as the document has it or as it is exported: its kind and its labels.
type Described = (String, BTreeSet<String>);

/// A page of metrics, read.
#[derive(Debug)]
pub struct Scrape {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    pub async fn of(whole: &Whole) -> Self {
        let (status, kind, text) = page(whole, "/metrics", "*/*").await;
        assert_eq!((status, &*kind), (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8"));
        Self::read(&text)
    }

    /// Every line must be one of those that are expected.
    fn read(text: &str) -> Self {
        let (mut kinds, mut samples, mut helped) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("a help has a text");
                assert!(helped.insert(name.to_owned()) && !help.is_empty(), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type is a word");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
                let value: f64 = value.parse().expect("a number");
                assert!(value.is_finite() && value >= 0.0, "{line}");
                assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
            }
        }
        assert_eq!(kinds.keys().cloned().collect::<BTreeSet<_>>(), helped);
        Self { kinds, samples }
    }

    /// The value of a series; labels as they are written.
    pub fn get(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("there is no {series} in {:#?}", self.samples))
    }

    /// The sum of all series that begin so.
    pub fn sum(&self, begin: &str) -> f64 {
        let all: Vec<f64> = self
            .samples
            .iter()
            .filter(|(series, _)| series.starts_with(begin))
            .map(|(_, value)| *value)
            .collect();
        assert!(!all.is_empty(), "there is no {begin} in {:#?}", self.samples);
        all.iter().sum()
    }

    /// A series of the account of the tests, with more labels or none.
    fn of_account(&self, name: &str, labels: &str) -> f64 {
        let more = if labels.is_empty() { String::new() } else { format!(",{labels}") };
        self.get(&format!("{name}{{account=\"{ACCOUNT}\"{more}}}"))
    }

    fn described(&self) -> BTreeMap<String, Described> {
        let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for series in self.samples.keys() {
            let (name, rest) = series.split_once('{').unwrap_or((series, ""));
            let found: BTreeSet<String> =
                rest.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned())).collect();
            let known = labels.entry(name.to_owned()).or_insert_with(|| found.clone());
            assert_eq!(*known, found, "all of one name have the same labels: {series}");
        }
        let described = self.kinds.iter().map(|(name, kind)| {
            let labels = labels.remove(name).unwrap_or_else(|| panic!("{name} has no sample"));
            (name.clone(), (kind.clone(), labels))
        });
        let described = described.collect();
        assert!(labels.is_empty(), "without a type: {labels:?}");
        described
    }
}

/// The tables of docs/metrics.md. What is called `info` there is a gauge in Prometheus' own text.
fn documented() -> BTreeMap<String, Described> {
    let rows = include_str!("../../docs/metrics.md").lines().filter(|line| line.starts_with("| `"));
    let read = |row: &str| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, kind, labels, help, _] = cells[..] else { panic!("five bars: {row}") };
        assert!(!help.is_empty(), "{row}");
        let plain = |text: &str| text.trim_matches('`').to_owned();
        let labels = labels.split(", ").filter(|label| !label.is_empty()).map(plain).collect();
        let kind = if kind == "info" { "gauge" } else { kind };
        (plain(name), (kind.to_owned(), labels))
    };
    rows.map(read).collect()
}

/// A gateway after a busy minute: events, a consumer who resumes, one who is refused, a short log.
async fn busy() -> (Whole, Consumer) {
    let whole = Whole::with(Settings::default(), |config| config.hub.log_records = 100).await;
    let mut consumer = whole.subscribe(request(&["call.*.*"])).await;
    let mut events = Vec::new();
    // Never more at once than the log holds.
    for numbers in [0..75, 75..150] {
        for number in numbers.clone() {
            whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", &format!("call-{number}")));
        }
        events.extend(consumer.events(numbers.len()).await);
    }

    let resume = proto::SubscribeRequest {
        start: Some(proto::subscribe_request::Start::ResumeAfter(events[140].cursor.clone().unwrap())),
        ..request(&["call.*.*"])
    };
    let mut resumed = whole.subscribe(resume).await;
    resumed.events(9).await;
    drop(resumed);

    let refused = Consumer::begin(&mut whole.client().await, request(&["call.NONSENSE.*"])).await;
    assert_eq!(refused.err().unwrap().code(), Code::InvalidArgument);
    (whole, consumer)
}

#[tokio::test]
async fn every_documented_metric_is_exported_and_no_other() {
    let (whole, _consumer) = busy().await;
    let exported = Scrape::of(&whole).await.described();
    let documented = documented();
    let names = |of: &BTreeMap<String, Described>| of.keys().cloned().collect::<BTreeSet<_>>();
    let (here, there) = (names(&exported), names(&documented));
    assert_eq!(here, there, "only on one side: {:?}", here.symmetric_difference(&there));
    assert_eq!(exported, documented);
    whole.stop().await;
}

#[tokio::test]
async fn what_happened_is_what_is_counted() {
    let (whole, mut consumer) = busy().await;
    let scrape = Scrape::of(&whole).await;
    let of = |name: &str, labels: &str| scrape.of_account(name, labels);

    assert_eq!(of("hawking_upstream_up", ""), 1.0);
    assert_eq!(of("hawking_upstream_state", "state=\"live\""), 1.0);
    assert_eq!(of("hawking_upstream_flavour_info", "flavour=\"k4\""), 1.0);
    assert_eq!(of("hawking_upstream_sessions", ""), 1.0);
    assert_eq!(of("hawking_upstream_attempts_total", "outcome=\"connected\""), 1.0);
    assert_eq!(of("hawking_upstream_bindings", "state=\"active\""), 1.0);
    assert_eq!(of("hawking_upstream_bindings", "state=\"pending\""), 0.0);
    assert!(of("hawking_upstream_commands_total", "purpose=\"bind\"") >= 1.0);
    assert!(of("hawking_upstream_command_results_total", "purpose=\"bind\",result=\"done\"") >= 1.0);
    assert!(of("hawking_upstream_received_bytes_total", "") > 150.0 * 100.0);
    for time in ["hawking_upstream_last_frame_timestamp_seconds", "hawking_upstream_proven_timestamp_seconds"]
    {
        let labels = if time.contains("proven") { "kind=\"call\"" } else { "" };
        let age = now() - of(time, labels);
        assert!((0.0..60.0).contains(&age), "{time}: {age}");
    }

    assert_eq!(of("hawking_events_received_total", ""), 150.0);
    assert_eq!(of("hawking_events_appended_total", ""), 150.0);
    assert_eq!(of("hawking_log_records", ""), 100.0);
    assert!(of("hawking_log_bytes", "") > 100.0 * 100.0);
    assert!((0.0..60.0).contains(&of("hawking_log_window_seconds", "")));
    assert_eq!(scrape.get("hawking_log_limit_bytes"), (512 << 20) as f64);
    assert!(scrape.get("hawking_evicted_records_total{reason=\"log_records\"}") >= 50.0);
    assert_eq!(scrape.get("hawking_evicted_records_total{reason=\"log_bytes\"}"), 0.0);
    assert_eq!(scrape.get("hawking_encodes_total{part=\"core\"}"), 150.0);

    assert_eq!(of("hawking_streams", ""), 1.0);
    assert_eq!(of("hawking_views", ""), 1.0);
    assert_eq!(of("hawking_deliveries_total", ""), 159.0, "of open and of ended streams");
    assert!(of("hawking_delivered_bytes_total", "") > 159.0 * 100.0);
    assert_eq!(of("hawking_stream_lag_events", ""), 0.0);
    assert_eq!(scrape.get("hawking_streams_behind{at_least=\"1\"}"), 0.0);
    assert_eq!(scrape.get("hawking_streams_started_total{start=\"live\"}"), 1.0);
    assert_eq!(scrape.get("hawking_streams_started_total{start=\"cursor\"}"), 1.0);
    assert_eq!(scrape.get("hawking_streams_refused_total{reason=\"INVALID_BINDING\"}"), 1.0);
    assert_eq!(
        scrape.get("hawking_streams_refused_total{reason=\"SUBSCRIPTION_LIMIT\"}"),
        0.0,
        "there from the start"
    );
    assert_eq!(scrape.get("hawking_streams_refused_total{reason=\"other\"}"), 0.0);
    assert_eq!(scrape.get("hawking_connections_accepted_total"), 3.0);
    assert!(scrape.get("hawking_connection_written_bytes_total") > of("hawking_delivered_bytes_total", ""));
    assert!(scrape.get("hawking_connection_writes_total") > 1.0);
    assert!(scrape.get("hawking_connection_read_bytes_total") > 24.0);

    // The process, which runs all tests.
    assert_eq!(scrape.get(&format!("hawking_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    assert!((now() - 3600.0..now() + 1.0).contains(&scrape.get("process_start_time_seconds")));
    assert!(scrape.get("process_resident_memory_bytes") > 1e6);
    assert!(scrape.get("process_cpu_seconds_total") > 0.0 && scrape.get("process_threads") >= 1.0);
    assert!((4.0..scrape.get("process_max_fds")).contains(&scrape.get("process_open_fds")));

    // The upstream goes.
    whole.sim.clone().shutdown().await;
    consumer.until(|kind| matches!(kind, Kind::Gap(_))).await;
    let later = Scrape::of(&whole).await;
    assert_eq!(later.of_account("hawking_upstream_up", ""), 0.0);
    assert_eq!(later.of_account("hawking_upstream_sessions", ""), 0.0);
    assert_eq!(later.of_account("hawking_upstream_gaps_total", "reason=\"upstream_disconnected\""), 1.0);
    assert_eq!(later.get("hawking_stream_gaps_total{reason=\"upstream_disconnected\"}"), 1.0);
    let ended: f64 = ["eof", "idle", "closed", "io"]
        .map(|reason| {
            later.of_account("hawking_upstream_sessions_ended_total", &format!("reason=\"{reason}\""))
        })
        .iter()
        .sum();
    assert_eq!(ended, 1.0);

    // Nothing that only grows has shrunk.
    for (series, before) in &scrape.samples {
        let name = series.split('{').next().unwrap();
        if scrape.kinds[name] == "counter" {
            assert!(later.get(series) >= *before, "{series}");
        }
    }
    soon("the gateway ends", whole.gateway.stop()).await;
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Waits until a series has a value.
pub async fn until(whole: &Whole, series: &str, expected: f64) {
    let reached = async {
        while Scrape::of(whole).await.get(series) != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, reached).await.is_err() {
        panic!("{series} is {}, not {expected}", Scrape::of(whole).await.get(series));
    }
}

#[tokio::test]
async fn consumers_are_counted_as_they_come_and_go() {
    let whole = Whole::with(Settings::default(), |config| {
        config.grpc.max_connections = 2;
        config.grpc.handshake_timeout = Duration::from_millis(300);
        config.hub.max_subscriptions = 1;
    })
    .await;
    let ended = |reason: &str| format!("hawking_connections_ended_total{{reason=\"{reason}\"}}");

    let address = whole.gateway.grpc_addr();
    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until(&whole, &ended("handshake"), 1.0).await;
    let _silent = TcpStream::connect(address).await.unwrap();
    until(&whole, &ended("hello_timeout"), 1.0).await;

    let mut client = whole.client().await;
    let first = Consumer::begin(&mut client, request(&["call.*.*"])).await.unwrap();
    let refused = Consumer::begin(&mut client, request(&["call.*.*"])).await;
    assert_eq!(refused.err().unwrap().code(), Code::ResourceExhausted);
    let mut unknown = request(&["call.*.*"]);
    unknown.account_id = "0".repeat(32);
    assert_eq!(Consumer::begin(&mut client, unknown).await.err().unwrap().code(), Code::NotFound);
    let scrape = Scrape::of(&whole).await;
    assert_eq!(scrape.get("hawking_streams_refused_total{reason=\"SUBSCRIPTION_LIMIT\"}"), 1.0);
    assert_eq!(scrape.get("hawking_streams_refused_total{reason=\"ACCOUNT_NOT_CONFIGURED\"}"), 1.0);
    assert_eq!(scrape.get("hawking_connections"), 1.0);

    let _second = channel(address).await;
    until(&whole, "hawking_connections", 2.0).await;
    let mut third = TcpStream::connect(address).await.unwrap();
    let mut buffer = [0];
    let closed = third.read(&mut buffer);
    assert!(matches!(soon("it is closed", closed).await, Ok(0) | Err(_)));
    until(&whole, "hawking_connections_refused_total", 1.0).await;

    drop(first);
    until(&whole, "hawking_streams_ended_total{reason=\"client_cancelled\"}", 1.0).await;
    drop(client);
    until(&whole, &ended("done"), 1.0).await;
    until(&whole, "hawking_connections", 1.0).await;
    whole.stop().await;
}

/// A consumer that takes nothing shows as stalled and lagging, and then as ended.
#[tokio::test]
async fn who_does_not_read_is_seen_to_lag() {
    let whole = Whole::with(Settings::default(), |config| {
        config.grpc.stall_timeout = Duration::from_secs(4);
    })
    .await;
    let consumer = whole.subscribe(request(&["call.*.*"])).await;
    let filler = "x".repeat(64 << 10);
    // More than all windows and buffers between the two.
    for number in 0..150 {
        let event = Event::call(whole.account(), "CHANNEL_CREATE", &format!("call-{number}"));
        whole.publish(&event.with("Filler", filler.as_str()));
    }
    until(&whole, &format!("hawking_events_appended_total{{account=\"{ACCOUNT}\"}}"), 150.0).await;
    until(&whole, "hawking_streams_stalled", 1.0).await;
    let scrape = Scrape::of(&whole).await;
    let lag = scrape.of_account("hawking_stream_lag_events", "");
    let delivered = scrape.of_account("hawking_deliveries_total", "");
    assert!(lag >= 100.0 && lag + delivered == 150.0, "{lag} and {delivered}");
    assert_eq!(scrape.get("hawking_streams_behind{at_least=\"100\"}"), 1.0);
    assert_eq!(scrape.get("hawking_streams_behind{at_least=\"1000\"}"), 0.0);
    assert!(
        scrape.get("hawking_held_bytes") < (2 << 20) as f64,
        "what waits stands in the log, not with the stream"
    );

    until(&whole, "hawking_streams_ended_total{reason=\"not_reading\"}", 1.0).await;
    until(&whole, "hawking_streams_stalled", 0.0).await;
    drop(consumer);
    whole.stop().await;
}

#[tokio::test]
async fn failures_to_log_in_are_told_apart() {
    let whole = Whole::with(Settings::default(), |config| {
        config.upstream.backoff_refused = Duration::from_millis(50);
        config.accounts[0].credentials = config::Credentials::ApiKey { key: "wrong".into() };
    })
    .await;
    let series =
        format!("hawking_upstream_attempts_total{{account=\"{ACCOUNT}\",outcome=\"login_refused\"}}");
    let refused = async {
        while Scrape::of(&whole).await.get(&series) < 2.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("it is refused twice", refused).await;
    let scrape = Scrape::of(&whole).await;
    assert_eq!(scrape.of_account("hawking_upstream_up", ""), 0.0);
    assert_eq!(scrape.of_account("hawking_upstream_state", "state=\"down\""), 1.0);
    whole.stop().await;
}

/// The other form has the same samples.
#[tokio::test]
async fn openmetrics_says_the_same() {
    let (whole, _consumer) = busy().await;
    let (status, kind, text) = page(&whole, "/metrics", OPENMETRICS).await;
    assert_eq!(status, StatusCode::OK);
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let text = text.strip_suffix("# EOF\n").expect("it ends with the mark");
    let samples = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let (_, _, plain) = page(&whole, "/metrics", "*/*").await;
    assert_eq!(samples(text), samples(&plain));
    whole.stop().await;
}
