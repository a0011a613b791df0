//! A configuration that changes while `hawking serve` runs: by files and by SIGHUP.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use hawking::{
    binding::AccountId,
    proto::{self, event_service_client::EventServiceClient, subscribe_response::Kind},
    sim::{AccountSpec, Event, Settings, Simulator},
};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tonic::{Code, Status, transport::Channel};

use crate::{hawking, process::Running};

const PATIENCE: Duration = Duration::from_secs(30);

fn id(number: u8) -> AccountId {
    format!("reload{number:0>26}").parse().unwrap()
}

/// Keys that must never be seen.
fn key(number: u8, which: &str) -> String {
    format!("kingfisher-{number}-{which}")
}

/// A folder as the kubelet makes it of a ConfigMap and a Secret: each file is a symlink into `..data`, which is a symlink to
/// a folder with a new name for each change.
struct Mounted {
    folder: TempDir,
    changes: u32,
    sim: Simulator,
    watch: bool,
}

impl Mounted {
    async fn new(watch: bool) -> Self {
        let spec = |number| {
            let name = format!("reload{number}");
            let spec = AccountSpec::new(id(number), &name, &format!("{name}.example.com"), None);
            spec.with_api_key(&key(number, "old")).with_api_key(&key(number, "new"))
        };
        let settings = Settings { accounts: (0..3).map(spec).collect(), ..Settings::default() };
        let sim = Simulator::start(settings).await.unwrap();
        Self { folder: TempDir::new().unwrap(), changes: 0, sim, watch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes all files at once. `more` goes into the configuration.
    fn put(&mut self, accounts: &[u8], which: &str, more: &str) {
        self.changes += 1;
        let data = format!("..2026_11_24.{}", self.changes);
        fs::create_dir(self.path(&data)).unwrap();
        let mut text = format!(
            "{more}\n[upstream]\ncrossbar_url = \"{}\"\nblackhole_url = \"{}\"\n\
             [grpc]\nlisten = \"127.0.0.1:0\"\n\
             [admin]\ngrpc_listen = \"127.0.0.1:0\"\nhttp_listen = \"off\"\n\
             [shutdown]\nendpoint_wait = \"0s\"\n\
             [reload]\nwatch = {}\nwatch_interval = \"50ms\"\n",
            self.sim.crossbar_url(),
            self.sim.blackhole_url(),
            self.watch
        );
        for number in 0..3 {
            fs::write(self.path(&data).join(format!("key{number}")), key(number, which) + "\n").unwrap();
        }
        for number in accounts {
            let file = self.path(&format!("key{number}"));
            text += &format!("[[accounts]]\nid = \"{}\"\napi_key_file = {file:?}\n", id(*number));
        }
        fs::write(self.path(&data).join("hawking.toml"), text).unwrap();
        symlink(&data, self.path("..data_tmp")).unwrap();
        fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
        if self.changes == 1 {
            for name in ["hawking.toml", "key0", "key1", "key2"] {
                symlink(format!("..data/{name}"), self.path(name)).unwrap();
            }
        }
    }

    async fn serve(&self) -> (Running, EventServiceClient<Channel>) {
        let mut serve = Running::start(hawking(["serve", "--config"]).arg(self.path("hawking.toml")));
        let line = serve.stderr_line("serving gRPC");
        let port: String =
            line.rsplit_once("127.0.0.1:").unwrap().1.chars().take_while(char::is_ascii_digit).collect();
        let server = format!("http://127.0.0.1:{port}");
        (serve, EventServiceClient::connect(server).await.unwrap())
    }

    fn publish(&self, number: u8, call_id: u32) {
        let account = self.sim.account(&id(number)).unwrap();
        self.sim.publish(&Event::call(account, "CHANNEL_CREATE", &call_id.to_string())).unwrap();
    }
}

/// Reads a stream to its end: the call ids, and the status.
async fn read(client: &mut EventServiceClient<Channel>, number: u8) -> JoinHandle<(Vec<String>, Status)> {
    let request = proto::SubscribeRequest {
        account_id: id(number).to_string(),
        bindings: vec!["call.*.*".into()],
        ..Default::default()
    };
    let mut stream = timeout(PATIENCE, client.subscribe(request)).await.unwrap().unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().kind.unwrap();
    let Kind::Subscribed(subscribed) = first else { panic!("{first:?}") };
    assert_eq!(subscribed.bindings[0].state(), proto::BindingState::Active, "{subscribed:?}");
    tokio::spawn(async move {
        let mut events = Vec::new();
        loop {
            match stream.message().await {
                Ok(Some(message)) => match message.kind.unwrap() {
                    Kind::Event(event) => events.push(event.call_id),
                    Kind::Gap(gap) => panic!("{gap:?}"),
                    _ => {}
                },
                Ok(None) => panic!("it ended without a status"),
                Err(status) => return (events, status),
            }
        }
    })
}

async fn end(stream: JoinHandle<(Vec<String>, Status)>) -> (Vec<String>, Status) {
    timeout(PATIENCE, stream).await.expect("the stream ends").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_configmap_and_secret_that_change() {
    let mut mounted = Mounted::new(true).await;
    mounted.put(&[0, 1], "old", "");
    let (mut serve, mut client) = mounted.serve().await;
    let staying = read(&mut client, 0).await;
    let going = read(&mut client, 1).await;
    mounted.publish(0, 1);
    mounted.publish(1, 1);

    mounted.put(&[0, 1, 2], "old", "[hub]\nlinger = \"7s\"");
    serve.stderr_line("hub.linger: \"1m\" -> \"7s\"");
    serve.stderr_line(&format!("a new account account={}", id(2)));
    let come = read(&mut client, 2).await;
    mounted.publish(2, 1);
    mounted.publish(0, 2);

    // Wrong in two ways; each is said, and nothing changes.
    mounted.put(&[0], "old", "[hub]\nlinger = \"long\"\nlingerr = 1");
    serve.stderr_line("the configuration is wrong, and the one before stays in force");
    serve.stderr_line("hub.linger: found \"long\"");
    serve.stderr_line("hub.lingerr: unknown key");
    mounted.publish(0, 3);
    mounted.publish(1, 2);
    mounted.publish(2, 2);

    // Other credentials, one account less, and something that needs a restart.
    mounted.put(&[0, 2], "new", "[telemetry]\nlog_filter = \"debug\"\nlog_format = \"json\"");
    serve.stderr_line("telemetry.log_format: \"text\" -> \"json\"");
    serve.stderr_line("telemetry.log_filter: \"info\" -> \"debug\"");
    serve.stderr_line(&format!("accounts.{}.api_key: another secret", id(0)));
    serve.stderr_line(&format!("an account goes account={}", id(1)));
    let (events, status) = end(going).await;
    assert_eq!(events, ["1", "2"]);
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    mounted.publish(0, 4);
    mounted.publish(2, 3);

    serve.signal("HUP");
    serve.stderr_line("nothing else is new");
    serve.signal("INT");
    for (stream, expected) in [(staying, &["1", "2", "3", "4"][..]), (come, &["1", "2", "3"])] {
        let (events, status) = end(stream).await;
        assert_eq!(
            (&events[..], status.code()),
            (&expected.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..], Code::Unavailable)
        );
    }
    let (code, said) = tokio::task::spawn_blocking(|| serve.end_with_everything()).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("kingfisher"), "a secret: {said}");
    mounted.sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_where_nothing_is_watched() {
    let mut mounted = Mounted::new(false).await;
    mounted.put(&[0], "old", "");
    let (mut serve, mut client) = mounted.serve().await;
    let staying = read(&mut client, 0).await;
    mounted.put(&[0, 1], "old", "");
    // Several watch intervals, had there been a watch.
    tokio::time::sleep(Duration::from_millis(300)).await;
    mounted.publish(0, 1);
    serve.signal("HUP");
    let line = serve.stderr_line("the configuration has changed");
    assert!(line.contains("SIGHUP"), "{line}");
    serve.stderr_line(&format!("a new account account={}", id(1)));
    let come = read(&mut client, 1).await;
    serve.signal("INT");
    assert_eq!(end(staying).await.0, ["1"]);
    assert_eq!(end(come).await.1.code(), Code::Unavailable);
    assert_eq!(tokio::task::spawn_blocking(|| serve.end()).await.unwrap().0, Some(0));
    mounted.sim.shutdown().await;
}
