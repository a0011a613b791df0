//! Numbered events of several accounts, and streams that are held to them: none may be missing, and none may come twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hawking::{
    binding::AccountId,
    proto::{self, event_service_client::EventServiceClient, subscribe_response::Kind},
    sim::{Event, Simulator},
};
use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

/// Longer than anything takes, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a stream has brought.
#[derive(Debug, Default)]
pub struct Seen {
    pub numbers: Vec<u64>,
    pub gaps: Vec<proto::Gap>,
    pub end: Option<Status>,
}

/// A stream that is read by a task of its own.
pub struct Reading {
    account: AccountId,
    pub seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Reading {
    /// Subscribes to the calls of an account, and waits until they come.
    pub async fn begin(client: &mut EventServiceClient<Channel>, account: AccountId) -> Result<Self, Status> {
        let request = proto::SubscribeRequest {
            account_id: account.to_string(),
            bindings: vec!["call.*.*".into()],
            payload_format: proto::PayloadFormat::None.into(),
            client_name: format!("reads {account}"),
            ..Default::default()
        };
        let begun = async {
            let mut stream = client.subscribe(request).await?.into_inner();
            let mut active = false;
            while !active {
                active = match next(&mut stream).await? {
                    Kind::Subscribed(subscribed) => is_active(&subscribed.bindings),
                    Kind::UpstreamStatus(status) => is_active(&status.bindings),
                    _ => false,
                };
            }
            Ok::<_, Status>(stream)
        };
        let stream = timeout(PATIENCE, begun).await.expect("its binding becomes active")?;
        let seen = Arc::<Mutex<Seen>>::default();
        let task = tokio::spawn(read(stream, seen.clone()));
        Ok(Self { account, seen, task })
    }

    /// It goes on, has missed nothing, and nothing came twice.
    pub fn check(&self, when: &str) {
        let seen = self.seen.lock();
        assert!(seen.end.is_none(), "{when}: {} ended with {:?}", self.account, seen.end);
        drop(seen);
        self.has_no_hole(when);
    }

    /// It has missed nothing, and nothing came twice, whether it goes on or not.
    pub fn has_no_hole(&self, when: &str) {
        let seen = self.seen.lock();
        assert_eq!(seen.gaps, [], "{when}: {}", self.account);
        let torn = seen.numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
        assert_eq!(torn, None, "{when}: {} of {} events", self.account, seen.numbers.len());
    }

    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.seen.lock().numbers.last().copied().unwrap_or_default()
    }

    /// Waits for the event with this number.
    pub async fn has(&self, number: u64) {
        let has = async {
            while self.last() < number {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, has).await.is_err() {
            panic!("{} has {}, not {number}", self.account, self.last());
        }
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> Status {
        timeout(PATIENCE, &mut self.task).await.expect("the stream ends").expect("it does not panic");
        self.seen.lock().end.clone().expect("it ended")
    }

    /// It ends because its account went.
    pub async fn gone(&mut self, when: &str) {
        let end = self.end().await;
        assert_eq!(
            (end.code(), &*reason(&end)),
            (Code::NotFound, "ACCOUNT_NOT_CONFIGURED"),
            "{when}: {end:?}"
        );
    }
}

fn is_active(bindings: &[proto::BindingStatus]) -> bool {
    bindings.iter().all(|binding| binding.state() == proto::BindingState::Active)
}

async fn next(stream: &mut Streaming<proto::SubscribeResponse>) -> Result<Kind, Status> {
    let message = stream.message().await?.expect("a stream does not end without a status");
    Ok(message.kind.expect("every message has a kind"))
}

async fn read(mut stream: Streaming<proto::SubscribeResponse>, seen: Arc<Mutex<Seen>>) {
    loop {
        match next(&mut stream).await {
            Ok(Kind::Event(event)) => seen.lock().numbers.push(event.call_id.parse().expect("a number")),
            Ok(Kind::Gap(gap)) => seen.lock().gaps.push(gap),
            Ok(_) => {}
            Err(status) => {
                seen.lock().end = Some(status);
                return;
            }
        }
    }
}

/// `ErrorInfo.reason`, or nothing.
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// Publishes numbered events of each account, evenly, until it is stopped.
pub struct Traffic {
    published: Arc<Vec<AtomicU64>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Traffic {
    /// Each has an event so often.
    pub fn start(sim: &Simulator, accounts: Vec<AccountId>, every: Duration) -> Self {
        let published: Arc<Vec<_>> = Arc::new(accounts.iter().map(|_| AtomicU64::new(0)).collect());
        let (stop, counts, sim) = (CancellationToken::new(), published.clone(), sim.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                for (id, count) in accounts.iter().zip(&*counts) {
                    let call_id = (count.load(Ordering::Relaxed) + 1).to_string();
                    let account = sim.account(id).expect("it has the account");
                    sim.publish(&Event::call(account, "CHANNEL_CREATE", &call_id)).expect("a whole event");
                    count.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(every).await;
            }
        });
        Self { published, stop, task }
    }

    /// How many there were of each.
    pub async fn stop(self) -> Vec<u64> {
        self.stop.cancel();
        self.task.await.expect("it does not panic");
        self.published.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}
