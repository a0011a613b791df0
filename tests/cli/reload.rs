//! A configuration that changes while `hawking serve` runs: by files and by SIGHUP.

use std::{collections::BTreeMap, time::Duration};

use hawking::{
    binding::AccountId,
    proto::event_service_client::EventServiceClient,
    sim::{AccountSpec, Event, Settings, Simulator},
};
use tonic::{Code, transport::Channel};

use crate::{
    hawking,
    mounted::{Files, Mounted},
    numbered::Reading,
    process::Running,
};

pub fn id(number: u8) -> AccountId {
    format!("reload{number:0>26}").parse().unwrap()
}

/// Keys that must never be seen.
pub fn key(number: u8, which: &str) -> String {
    format!("kingfisher-{number}-{which}")
}

/// The files of a server that is to run against a simulator.
pub struct Place {
    pub mounted: Mounted,
    pub sim: Simulator,
    watch: bool,
    /// Where the admin HTTP listener is, once it runs.
    pages: String,
}

impl Place {
    /// Each account has two keys that are good, `old` and `new`.
    pub async fn new(watch: bool, accounts: u8) -> Self {
        let spec = |number| {
            let name = format!("reload{number}");
            let spec = AccountSpec::new(id(number), &name, &format!("{name}.example.com"), None);
            spec.with_api_key(&key(number, "old")).with_api_key(&key(number, "new"))
        };
        let settings =
            Settings { accounts: (0..accounts).map(spec).collect(), record_limit: 0, ..Settings::default() };
        let sim = Simulator::start(settings).await.unwrap();
        Self { mounted: Mounted::new(), sim, watch, pages: String::new() }
    }

    /// What is the same in all configurations, and more for the upstream.
    pub fn head(&self, upstream: &str) -> String {
        format!(
            "[upstream]\ncrossbar_url = \"{}\"\nblackhole_url = \"{}\"\n{upstream}\
             [grpc]\nlisten = \"127.0.0.1:0\"\n\
             [admin]\ngrpc_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n\
             [reload]\nwatch = {}\nwatch_interval = \"50ms\"\n",
            self.sim.crossbar_url(),
            self.sim.blackhole_url(),
            self.watch
        )
    }

    /// An account, with its key in a file.
    pub fn account(&self, number: u8) -> String {
        let file = self.mounted.path(&format!("key{number}"));
        format!("[[accounts]]\nid = \"{}\"\napi_key_file = {file:?}\n", id(number))
    }

    /// These accounts, with these keys; `more` goes into the configuration.
    fn put(&mut self, accounts: &[u8], which: &str, more: &str) {
        let mut files: Files =
            accounts.iter().map(|number| (format!("key{number}"), key(*number, which) + "\n")).collect();
        let of_accounts: String = accounts.iter().map(|number| self.account(*number)).collect();
        let text = format!("{}[shutdown]\nendpoint_wait = \"0s\"\n{more}\n{of_accounts}", self.head(""));
        files.insert("hawking.toml".to_owned(), text);
        self.mounted.swap(&files);
    }

    pub async fn serve(&mut self) -> (Running, EventServiceClient<Channel>) {
        let config = self.mounted.path("hawking.toml");
        let mut serve = Running::start(hawking(["serve", "--config"]).arg(config));
        let mut address = |line: &str| {
            let line = serve.stderr_line(line);
            let port = line.rsplit_once("127.0.0.1:").unwrap().1.chars().take_while(char::is_ascii_digit);
            format!("http://127.0.0.1:{}", port.collect::<String>())
        };
        let server = address("serving gRPC");
        self.pages = address("serving admin HTTP");
        (serve, EventServiceClient::connect(server).await.unwrap())
    }

    async fn page(&self, path: &str) -> String {
        // A machine without certificates of authorities does.
        let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
        client.get(format!("{}{path}", self.pages)).send().await.unwrap().text().await.unwrap()
    }

    /// The settings in force.
    pub async fn shown(&self) -> String {
        self.page("/config").await
    }

    /// How reloads came out, by outcome; and under `last` whether the last one was good.
    pub async fn reloads(&self) -> BTreeMap<String, u64> {
        let metrics = self.page("/metrics").await;
        let read = |line: &str| {
            let (word, count) = match line.strip_prefix("hawking_config_reloads_total{outcome=\"") {
                Some(rest) => rest.split_once("\"} ")?,
                None => ("last", line.strip_prefix("hawking_config_last_reload_successful ")?),
            };
            Some((word.to_owned(), count.parse().unwrap()))
        };
        metrics.lines().filter_map(read).collect()
    }

    fn publish(&self, number: u8, call_id: u64) {
        let account = self.sim.account(&id(number)).unwrap();
        self.sim.publish(&Event::call(account, "CHANNEL_CREATE", &call_id.to_string())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_configmap_and_secret_that_change() {
    let mut place = Place::new(true, 3).await;
    place.put(&[0, 1], "old", "");
    let (mut serve, mut client) = place.serve().await;
    let mut staying = Reading::begin(&mut client, id(0)).await.unwrap();
    let mut going = Reading::begin(&mut client, id(1)).await.unwrap();
    place.publish(0, 1);
    place.publish(1, 1);

    place.put(&[0, 1, 2], "old", "[hub]\nlinger = \"7s\"");
    serve.stderr_line("hub.linger: \"1m\" -> \"7s\"");
    serve.stderr_line(&format!("a new account account={}", id(2)));
    let mut come = Reading::begin(&mut client, id(2)).await.unwrap();
    place.publish(2, 1);
    place.publish(0, 2);

    // Wrong in two ways; each is said, and nothing changes.
    place.put(&[0], "old", "[hub]\nlinger = \"long\"\nlingerr = 1");
    serve.stderr_line("the configuration is wrong, and the one before stays in force");
    serve.stderr_line("hub.linger: found \"long\"");
    serve.stderr_line("hub.lingerr: unknown key");
    place.publish(0, 3);
    place.publish(1, 2);
    place.publish(2, 2);
    going.has(2).await;

    // Other credentials, one account less, and something that needs a restart.
    place.put(&[0, 2], "new", "[telemetry]\nlog_filter = \"debug\"\nlog_format = \"json\"");
    serve.stderr_line("telemetry.log_format: \"text\" -> \"json\"");
    serve.stderr_line("telemetry.log_filter: \"info\" -> \"debug\"");
    serve.stderr_line(&format!("accounts.{}.api_key: another secret", id(0)));
    serve.stderr_line(&format!("an account goes account={}", id(1)));
    going.gone("its account went").await;
    going.has_no_hole("its account went");
    place.publish(0, 4);
    place.publish(2, 3);
    staying.has(4).await;
    come.has(3).await;

    serve.signal("HUP");
    serve.stderr_line("nothing else is new");
    let expected = [("applied", 2), ("last", 1), ("rejected", 1), ("unchanged", 1)];
    let expected = expected.map(|(outcome, count)| (outcome.to_owned(), count));
    assert_eq!(place.reloads().await, expected.into());
    staying.check("after all that");
    come.check("after all that");
    serve.signal("INT");
    assert_eq!(staying.end().await.code(), Code::Unavailable);
    assert_eq!(come.end().await.code(), Code::Unavailable);
    let (code, said) = tokio::task::spawn_blocking(|| serve.end_with_everything()).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("kingfisher"), "a secret: {said}");
    place.sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_where_nothing_is_watched() {
    let mut place = Place::new(false, 2).await;
    place.put(&[0], "old", "");
    let (mut serve, mut client) = place.serve().await;
    let staying = Reading::begin(&mut client, id(0)).await.unwrap();
    place.put(&[0, 1], "old", "");
    // Several watch intervals, had there been a watch.
    tokio::time::sleep(Duration::from_millis(300)).await;
    place.publish(0, 1);
    staying.has(1).await;
    serve.signal("HUP");
    let line = serve.stderr_line("the configuration has changed");
    assert!(line.contains("SIGHUP"), "{line}");
    serve.stderr_line(&format!("a new account account={}", id(1)));
    let mut come = Reading::begin(&mut client, id(1)).await.unwrap();
    staying.check("after the reload");
    serve.signal("INT");
    assert_eq!(come.end().await.code(), Code::Unavailable);
    assert_eq!(tokio::task::spawn_blocking(|| serve.end()).await.unwrap().0, Some(0));
    place.sim.shutdown().await;
}
