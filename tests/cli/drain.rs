//! A replica is sent SIGTERM while another serves the same account, as in a rolling update.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use hawking::{
    proto::{self, event_service_client::EventServiceClient},
    sim::{Settings, Simulator},
};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    hawking,
    process::Running,
    takeover::{Crowd, OVERLAP, PATIENCE, Traffic, fill, scale},
};

const ACCOUNT: &str = "account0000000000000000000000002";
const ENDPOINT_WAIT: Duration = Duration::from_millis(300);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(8);

/// A running `hawking serve` that holds the calls of the account.
struct Replica {
    process: Running,
    server: SocketAddr,
    _folder: TempDir,
}

impl Replica {
    async fn start(sim: &Simulator) -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("hawking.toml");
        let (crossbar, blackhole) = (sim.crossbar_url(), sim.blackhole_url());
        let [wait, drain, grace] =
            [ENDPOINT_WAIT, DRAIN_TIMEOUT, GRACE].map(|span| format!("{}ms", span.as_millis()));
        let text = format!(
            "[upstream]\ncrossbar_url = \"{crossbar}\"\nblackhole_url = \"{blackhole}\"\n\
             [grpc]\nlisten = \"127.0.0.1:0\"\n\
             [admin]\ngrpc_listen = \"127.0.0.1:0\"\nhttp_listen = \"off\"\n\
             [shutdown]\nendpoint_wait = \"{wait}\"\ndrain_timeout = \"{drain}\"\ngrace = \"{grace}\"\n\
             [[accounts]]\nid = \"{ACCOUNT}\"\nusername = \"demo\"\npassword = \"hawking\"\n\
             account_realm = \"wefwefwefwef.2600hz.com\"\nalways_on = [\"call.*.*\"]\n"
        );
        fs::write(&config, text).unwrap();
        let mut process = Running::start(hawking(["serve", "--config"]).arg(&config));
        let line = process.stderr_line("serving gRPC");
        let port = line.rsplit_once("127.0.0.1:").unwrap().1.chars().take_while(char::is_ascii_digit);
        let server = format!("127.0.0.1:{}", port.collect::<String>()).parse().unwrap();
        let this = Self { process, server, _folder: folder };
        timeout(PATIENCE, this.live()).await.expect("it becomes live");
        this
    }

    async fn live(&self) {
        let mut client = EventServiceClient::connect(format!("http://{}", self.server)).await.unwrap();
        loop {
            let asked = proto::GetAccountStatusRequest { account_id: ACCOUNT.into() };
            let status = client.get_account_status(asked).await.unwrap().into_inner();
            let upstream = status.upstream_status.unwrap();
            if upstream.state() == proto::UpstreamState::Live {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends SIGTERM, and gives how long the process took to end, its exit code and the rest of its log.
    async fn terminate(self) -> (Duration, Option<i32>, String) {
        let ended = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            self.process.signal("TERM");
            let (code, _, log) = self.process.end();
            (began.elapsed(), code, log)
        });
        ended.await.unwrap()
    }
}

/// `TAKEOVER_STREAMS=500 TAKEOVER_ROUNDS=50` is the full size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_loses_nothing_and_ends_in_time_whatever_peers_do() {
    let (streams, rounds) = (scale("TAKEOVER_STREAMS", 60), scale("TAKEOVER_ROUNDS", 2));
    let sim = Simulator::start(Settings { record_limit: 0, ..Settings::default() }).await.unwrap();
    let account = sim.account(&ACCOUNT.parse().unwrap()).unwrap().clone();
    let traffic = Traffic::start(&sim, &account);
    let mut going = Replica::start(&sim).await;
    for round in 0..rounds {
        let next = Replica::start(&sim).await;
        tokio::time::sleep(OVERLAP).await;
        let server = next.server;
        let mut crowd = Crowd::gather(going.server, &account, streams).await;
        fill(&sim, &account);
        crowd.has(traffic.last() + 1).await;

        let (ended, moved) =
            tokio::join!(going.terminate(), crowd.moves_to(server, async || traffic.last() + 5));
        let (took, code, log) = ended;
        assert_eq!(code, Some(0), "{log}");
        assert!(took < GRACE, "{took:?}\n{log}");
        assert!(took >= ENDPOINT_WAIT + DRAIN_TIMEOUT, "{took:?}: nobody was half open\n{log}");
        assert!(log.contains("ended in good order"), "{log}");
        println!("round {round}: {moved} consumers moved, SIGTERM to exit took {took:?}");
        going = next;
    }
    traffic.stop().await;
    let (_, code, log) = going.terminate().await;
    assert_eq!(code, Some(0), "{log}");
    timeout(PATIENCE, sim.shutdown()).await.unwrap();
}
