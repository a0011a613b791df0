//! One gateway goes while another serves the same account, as in a rolling update: nobody who reads misses anything.

use std::time::{Duration, Instant};

use hawking::{
    binding::{Binding, OptIn},
    cli::serve::Gateway,
    hub::UpstreamState,
    sim::{Settings, Simulator},
    upstream::Seams,
};

use super::{
    harness::{ACCOUNT, account_id, eventually, soon},
    takeover_crowd::{Crowd, OVERLAP, Traffic, fill, scale},
    whole::config,
};

/// What half-open peers are given. Healthy ones need far less.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A gateway that holds the calls of the account from the start.
async fn replica(sim: &Simulator) -> Gateway {
    let mut config = config(sim);
    config.accounts[0].always_on = vec![Binding::parse("call.*.*", &OptIn::default()).unwrap()];
    config.shutdown.drain_timeout = DRAIN_TIMEOUT;
    let seams = Seams::system(&config.upstream).unwrap();
    let gateway = Gateway::start(config, seams).await.unwrap();
    let account = gateway.hub().get(&account_id(ACCOUNT)).unwrap();
    eventually("it is live", async || account.upstream().0.state == UpstreamState::Live).await;
    gateway
}

/// `TAKEOVER_STREAMS=500 TAKEOVER_ROUNDS=50` is the full size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_of_a_replica_that_goes_find_everything_at_the_next_one() {
    let (streams, rounds) = (scale("TAKEOVER_STREAMS", 40), scale("TAKEOVER_ROUNDS", 2));
    let sim = Simulator::start(Settings { record_limit: 0, ..Settings::default() }).await.unwrap();
    let account = sim.account(&account_id(ACCOUNT)).unwrap().clone();
    let traffic = Traffic::start(&sim, &account);
    let mut going = replica(&sim).await;
    for round in 0..rounds {
        let next = replica(&sim).await;
        tokio::time::sleep(OVERLAP).await;
        let mut crowd = Crowd::gather(going.grpc_addr(), &account, streams).await;
        fill(&sim, &account);
        crowd.has(traffic.last() + 1).await;

        let began = Instant::now();
        let (took, moved) = tokio::join!(
            async {
                soon("the gateway ends", going.stop()).await;
                began.elapsed()
            },
            crowd.moves_to(next.grpc_addr(), async || traffic.last() + 5),
        );
        // It was not for want of half-open ones that it ended in order.
        assert!(took >= DRAIN_TIMEOUT, "{took:?}: nobody was half open");
        println!("round {round}: {moved} consumers moved, the drain took {took:?}");
        going = next;
    }
    traffic.stop().await;
    soon("the gateway ends", going.stop()).await;
    soon("the simulator ends", sim.shutdown()).await;
}
