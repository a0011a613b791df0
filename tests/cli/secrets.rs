//! No secret in any output, at any level: neither in what the process says nor in what its consumers get, also where the
//! upstream repeats what it was sent.

use std::{
    collections::BTreeSet,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use hawking::{
    proto::{self, admin_service_client::AdminServiceClient, event_service_client::EventServiceClient},
    sim::{AccountSpec, Event, Frame, Happening, Settings, Simulator},
};
use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use sha1::Sha1;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
    time::timeout,
};
use tonic::{Status, transport::Channel};

use crate::{hawking, process::Running};

const PATIENCE: Duration = Duration::from_secs(30);

// One for each way in; quotes, spaces and the like, so that each way of escaping makes something else of them.
const PASSWORD: &str = "pa\"ss\\wörd +/=%41 night";
const WRONG_PASSWORD: &str = "kingfisher-that-nobody-knows";
const ECHOED_PASSWORD: &str = "<echo>&'password'";
const API_KEY: &str = "5f2b9c0e7d1a4c63b8f0e2d94a7c15364b1d8e0f3a6c9275";
const REFUSED_API_KEY: &str = "refused/api+key==";
const WRONG_API_KEY: &str = "an-api-key-of-nobody";
const ECHOED_API_KEY: &str = "an-api-key-that-comes-back";
/// Not secret: it has to be found.
const MARKER: &str = "a-name-that-may-be-logged";

fn id(number: u8) -> String {
    format!("account{number:0>25}")
}

fn md5(username: &str, password: &str) -> String {
    hex::encode(Md5::digest(format!("{username}:{password}")))
}

fn sha(username: &str, password: &str) -> String {
    hex::encode(Sha1::digest(format!("{username}:{password}")))
}

/// The looks that a text can take on its way into a log or a message.
pub fn forms(secret: &str) -> BTreeSet<String> {
    let quoted = serde_json::to_string(secret).unwrap();
    let debug = format!("{secret:?}");
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut forms = BTreeSet::from([
        secret.to_owned(),
        secret.to_lowercase(),
        secret.to_uppercase(),
        secret.chars().rev().collect(),
        quoted[1..quoted.len() - 1].to_owned(),
        debug[1..debug.len() - 1].to_owned(),
        secret.escape_default().to_string(),
        secret.as_bytes().escape_ascii().to_string(),
        form.replace('+', "%20"),
        form,
        hex::encode(secret),
        hex::encode_upper(secret),
        format!("{:?}", secret.as_bytes()).trim_matches(['[', ']']).to_owned(),
    ]);
    // Base64 looks different by where in a longer text it begins; its ends depend on the neighbours.
    for shift in 0..3 {
        let bytes = [&b"---"[..shift], secret.as_bytes()].concat();
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = engine.encode(&bytes);
            forms.insert(text[shift + 1..text.len() - 2].to_owned());
        }
    }
    forms
}

/// Which of the secrets are in the text, and in which form.
pub fn leaks(text: &str, secrets: &BTreeSet<String>) -> Vec<String> {
    let found = |secret: &String| {
        let forms = forms(secret).into_iter().filter(|form| text.contains(form.as_str()));
        forms.map(|form| format!("{secret} as {form}")).collect::<Vec<_>>()
    };
    secrets.iter().flat_map(found).collect()
}

#[test]
fn leaks_are_found_in_every_form() {
    for secret in [PASSWORD, API_KEY, MARKER] {
        let secrets = BTreeSet::from([secret.to_owned()]);
        assert!(leaks("nothing of it", &secrets).is_empty());
        for form in forms(secret) {
            assert!(form.len() >= 8, "{form} could be chance");
            assert!(!leaks(&format!("x{form}y"), &secrets).is_empty(), "{form}");
        }
        for before in ["", "{", "{\""] {
            let inside = STANDARD_NO_PAD.encode(format!("{before}{secret}\"}}"));
            assert!(!leaks(&inside, &secrets).is_empty(), "{inside}");
        }
    }
}

/// A Crossbar, and a blackhole, that repeats all that it is sent: in its status line, its headers and its body.
async fn echo(listener: TcpListener) {
    let mut connections = JoinSet::new();
    for answer in ["200 OK", "400 Bad", "401 No", "500 Down", "301 Moved", "200 OK"].iter().cycle() {
        let Ok((mut client, _)) = listener.accept().await else { return };
        connections.spawn(async move {
            let mut request = [0; 4096];
            let mut length = 0;
            // All requests here have a body, and it is JSON; upgrades have none.
            while !request[..length].ends_with(b"}}") && !request[..length].ends_with(b"\r\n\r\n\0") {
                match timeout(Duration::from_millis(100), client.read(&mut request[length..])).await {
                    Ok(Ok(more @ 1..)) => length += more,
                    _ => break,
                }
            }
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let line = text.replace(['\r', '\n'], " ");
            let answer = format!(
                "HTTP/1.1 {answer} {line}\r\nlocation: /{line}\r\nx-echo: {line}\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            );
            let _ = client.write_all(answer.as_bytes()).await;
            let _ = client.shutdown().await;
        });
    }
}

/// All that hawking can meet: an upstream that lets it in, one that refuses its tokens, and one that echoes.
struct Upstreams {
    good: Simulator,
    refusing: Simulator,
    echo: String,
    _echo: JoinSet<()>,
}

impl Upstreams {
    async fn start() -> Self {
        let account = |number: u8| {
            let (name, realm) = (format!("name{number}"), format!("realm{number}.example.com"));
            AccountSpec::new(id(number).parse().unwrap(), &name, &realm, None)
        };
        let good = vec![
            account(2).with_user("Night Watch", PASSWORD),
            account(3).with_user("hashed", "of no concern"),
            account(4).with_api_key(API_KEY),
            account(5).with_user("demo", "another"),
        ];
        let good = Settings { accounts: good, ..Settings::default() };
        // What it hands out is over at once: blackhole refuses it, and says it in its error (F22).
        let refusing = vec![account(7).with_api_key(REFUSED_API_KEY)];
        let refusing = Settings { accounts: refusing, token_life: Duration::ZERO, ..Settings::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(echo(listener));
        Self {
            good: Simulator::start(good).await.unwrap(),
            refusing: Simulator::start(refusing).await.unwrap(),
            echo: address.to_string(),
            _echo: tasks,
        }
    }

    fn config(&self, log_format: &str) -> String {
        let hash = sha("hashed", "of no concern");
        let (good, refusing, echo) = (&self.good, &self.refusing, &self.echo);
        let mut text = format!(
            "[upstream]\ncrossbar_url = \"{}\"\nblackhole_url = \"{}\"\nbackoff_initial = \"20ms\"\n\
             backoff_max = \"100ms\"\nbackoff_refused = \"300ms\"\nlogins_per_second = 1000\nping_interval = \"200ms\"\nliveness_timeout = \"5s\"\n\
             [grpc]\nlisten = \"127.0.0.1:0\"\n[admin]\ngrpc_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n\
             [telemetry]\nlog_filter = \"trace\"\nlog_format = \"{log_format}\"\n",
            good.crossbar_url(),
            good.blackhole_url()
        );
        let urls = |crossbar: &str, blackhole: &str| {
            format!("crossbar_url = \"{crossbar}\"\nblackhole_url = \"{blackhole}\"\n")
        };
        let at_refusing = urls(refusing.crossbar_url().as_str(), refusing.blackhole_url().as_str());
        let at_echo = urls(&format!("http://{echo}"), &format!("ws://{echo}"));
        let blackhole_at_echo = urls(good.crossbar_url().as_str(), &format!("ws://{echo}"));
        for (number, account) in [
            (
                2,
                "username = \"Night Watch\"\npassword_env = \"PASSWORD\"\naccount_name = \"name2\"\n"
                    .to_owned(),
            ),
            (
                3,
                format!(
                    "credentials_hash = \"{hash}\"\nhash_method = \"sha\"\naccount_realm = \"realm3.example.com\"\n"
                ),
            ),
            (4, format!("api_key = \"{API_KEY}\"\n")),
            (5, format!("username = \"demo\"\npassword = \"{WRONG_PASSWORD}\"\naccount_name = \"name5\"\n")),
            (6, format!("api_key = \"{WRONG_API_KEY}\"\n")),
            (7, format!("api_key = \"{REFUSED_API_KEY}\"\n{at_refusing}")),
            (
                8,
                format!(
                    "username = \"demo\"\npassword = \"{ECHOED_PASSWORD}\"\naccount_name = \"name8\"\n{at_echo}"
                ),
            ),
            (9, format!("api_key = \"{ECHOED_API_KEY}\"\n{at_echo}")),
            (10, format!("api_key = \"{API_KEY}\"\n{blackhole_at_echo}")),
        ] {
            text += &format!("[[accounts]]\nid = \"{}\"\n{account}", id(number));
        }
        text
    }

    /// Every token that hawking has got.
    fn tokens(&self) -> BTreeSet<String> {
        let tokens = |sim: &Simulator| {
            let received = sim.record().into_iter().filter_map(|exchange| match exchange.what {
                Happening::Received(Frame::Text(text)) => serde_json::from_str(&text).ok(),
                _ => None,
            });
            received.filter_map(|frame: serde_json::Value| Some(frame["auth_token"].as_str()?.to_owned()))
        };
        tokens(&self.good).chain(tokens(&self.refusing)).collect()
    }

    /// How often blackhole has repeated a token in a refusal.
    fn echoed(&self) -> usize {
        let sent = self.refusing.record().into_iter().filter(|exchange| match &exchange.what {
            Happening::Sent(Frame::Text(text)) => text.contains("failed to authenticate token e"),
            _ => false,
        });
        sent.count()
    }

    /// Whatever may come from a broken upstream, each time with a token in it.
    fn misbehave(&self, token: &str) {
        for frame in [
            token.to_owned(),
            format!("{{\"{token}\""),
            format!(
                r#"{{"action":"reply","request_id":"1","status":"error","data":{{"errors":["failed to authenticate token {token}"]}}}}"#
            ),
            format!(r#"{{"action":"reply","request_id":"{token}","status":"{token}","data":"{token}"}}"#),
            format!(
                r#"{{"action":"event","subscribed_key":"{token}","routing_key":"{token}","data":{{"x":"{token}"}}}}"#
            ),
            format!(
                r#"{{"action":"event","routing_key":"call.{token}.X.y","name":"{token}","data":{{"x":"{token}"}}}}"#
            ),
            format!(r#"{{"action":"event","routing_key":"call.A","data":"{token}"}}"#),
            format!(r#"{{"action":"{token}"}}"#),
        ] {
            assert!(self.good.inject_frame(&frame) > 0);
        }
    }
}

/// All that consumers have got: messages and statuses, their details and metadata, byte for byte.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<u8>>>);

impl Received {
    fn take<M: prost::Message>(&self, answer: Result<M, Status>) {
        let mut all = self.0.lock();
        match answer {
            Ok(message) => all.extend(message.encode_to_vec()),
            Err(status) => {
                all.extend(format!("{status:?} {status}").bytes());
                all.extend(status.details());
            }
        }
        all.push(b'\n');
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

/// Reads a stream to its end.
async fn read(mut client: EventServiceClient<Channel>, request: proto::SubscribeRequest, received: Received) {
    let mut stream = match client.subscribe(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return received.take(Err::<proto::SubscribeResponse, _>(status)),
    };
    while let Some(message) = stream.message().await.transpose() {
        let ended = message.is_err();
        received.take(message);
        if ended {
            return;
        }
    }
}

async fn ask(client: &mut EventServiceClient<Channel>, received: &Received) {
    for number in 2..=10 {
        let request = proto::GetAccountStatusRequest { account_id: id(number) };
        received.take(client.get_account_status(request).await.map(tonic::Response::into_inner));
    }
    let request = proto::ListAccountsRequest::default();
    received.take(client.list_accounts(request).await.map(tonic::Response::into_inner));
    let request = proto::ListBindingTypesRequest::default();
    received.take(client.list_binding_types(request).await.map(tonic::Response::into_inner));
}

/// What an operator sees.
async fn look(admin: &mut AdminServiceClient<Channel>, received: &Received) {
    let request = proto::ListUpstreamSessionsRequest::default();
    received.take(admin.list_upstream_sessions(request).await.map(tonic::Response::into_inner));
    let request = proto::ListSubscribersRequest::default();
    received.take(admin.list_subscribers(request).await.map(tonic::Response::into_inner));
    let request = proto::ListEndedStreamsRequest::default();
    received.take(admin.list_ended_streams(request).await.map(tonic::Response::into_inner));
    for number in [2, 3, 99] {
        let request = proto::RotateUpstreamRequest { account_id: id(number) };
        received.take(admin.rotate_upstream(request).await.map(tonic::Response::into_inner));
    }
}

fn subscribe(number: u8, bindings: &[&str]) -> proto::SubscribeRequest {
    proto::SubscribeRequest {
        account_id: id(number),
        bindings: bindings.iter().map(|&text| text.to_owned()).collect(),
        client_name: MARKER.to_owned(),
        heartbeat_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    }
}

/// To where a line of the log says that something is served.
async fn connect(line: &str) -> Channel {
    let port: String =
        line.rsplit_once("127.0.0.1:").unwrap().1.chars().take_while(char::is_ascii_digit).collect();
    Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect().await.unwrap()
}

async fn nothing_secret_gets_out(log_format: &str) {
    let upstreams = Upstreams::start().await;
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("hawking.toml");
    fs::write(&config, upstreams.config(log_format)).unwrap();
    let mut command = hawking(["serve", "--config"]);
    command
        .arg(&config)
        .env("PASSWORD", PASSWORD)
        .env("HAWKING_SHUTDOWN__ENDPOINT_WAIT", "0s")
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "full");
    let mut gateway = Running::start(&mut command);
    let mut admin = AdminServiceClient::new(connect(&gateway.stderr_line("serving AdminService")).await);
    let mut client = EventServiceClient::new(connect(&gateway.stderr_line("serving gRPC")).await);
    let received = Received::default();
    let mut streams = JoinSet::new();
    for number in (2..=10).chain([99]) {
        let bindings: &[&str] = if number == 3 { &["call.NONSENSE.*"] } else { &["call.*.*", "object.*.*"] };
        for require_all_bindings in [false, true] {
            let request = proto::SubscribeRequest { require_all_bindings, ..subscribe(number, bindings) };
            streams.spawn(read(client.clone(), request, received.clone()));
        }
    }

    // Until everything has gone wrong more than once, and something has gone right.
    let began = Instant::now();
    let account = upstreams.good.accounts()[0].clone();
    let held = |sim: &Simulator| sim.subscribe_requests().iter().any(|asked| asked.account_id == id(2));
    while upstreams.echoed() < 3 || !held(&upstreams.good) || began.elapsed() < Duration::from_secs(2) {
        assert!(began.elapsed() < PATIENCE, "{} refusals", upstreams.echoed());
        ask(&mut client, &received).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for token in upstreams.tokens().iter().take(3) {
        upstreams.misbehave(token);
    }
    look(&mut admin, &received).await;
    // Some of that ended the sessions: they come again by themselves.
    while !received.text().contains("a-call-that-is-seen") {
        assert!(began.elapsed() < PATIENCE, "no event");
        upstreams.good.publish(&Event::call(&account, "CHANNEL_CREATE", "a-call-that-is-seen")).unwrap();
        ask(&mut client, &received).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    look(&mut admin, &received).await;

    let gateway = tokio::task::spawn_blocking(move || {
        gateway.signal("TERM");
        gateway.end_with_everything()
    });
    let (code, mut said) = timeout(PATIENCE, gateway).await.unwrap().unwrap();
    assert_eq!(code, Some(0), "{said}");
    while let Some(stream) = timeout(PATIENCE, streams.join_next()).await.unwrap() {
        stream.unwrap();
    }
    let received = received.text();

    // That the test looks where something is to be seen.
    for seen in [
        "DEBUG",
        "hawking::upstream",
        "subscribing",
        "an operator steers a session",
        MARKER,
        "401",
        "does not accept the token",
        "cannot be read",
    ] {
        assert!(said.contains(seen), "{seen} is not in {said}");
    }
    for seen in [
        "401",
        "does not accept the token",
        "INVALID_BINDING",
        "DRAINING",
        "a-call-that-is-seen",
        "NO_SESSION",
    ] {
        assert!(received.contains(seen), "{seen} is not in {received}");
    }
    assert!(!leaks(&said, &BTreeSet::from([MARKER.to_owned()])).is_empty());

    let tokens = upstreams.tokens();
    assert!(tokens.len() >= 5, "{tokens:?}");
    // By their parts, which a leak of the whole contains too.
    let mut secrets: BTreeSet<String> =
        tokens.iter().flat_map(|token| token.split('.')).map(str::to_owned).collect();
    for (username, password) in
        [("night watch", PASSWORD), ("demo", WRONG_PASSWORD), ("demo", ECHOED_PASSWORD)]
    {
        secrets.extend([password.to_owned(), md5(username, password), sha(username, password)]);
    }
    secrets.insert(sha("hashed", "of no concern"));
    secrets.extend([API_KEY, REFUSED_API_KEY, WRONG_API_KEY, ECHOED_API_KEY].map(str::to_owned));
    said.push_str(&received);
    assert_eq!(leaks(&said, &secrets), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_gets_out_as_text() {
    nothing_secret_gets_out("text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_gets_out_as_json() {
    nothing_secret_gets_out("json").await;
}
