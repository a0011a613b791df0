use std::{net::Ipv4Addr, thread::JoinHandle};

use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use super::{
    control::{Remote, Sent},
    frames::BINDING,
    pace::{Order, Speed},
    *,
};

/// Nothing here takes anywhere near so long, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A source that runs, and is steered from here.
struct Steered {
    addresses: Addresses,
    remote: Remote,
    running: JoinHandle<io::Result<()>>,
}

impl Steered {
    fn start(limit: Option<usize>) -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let any = Addresses { crossbar: free, blackhole: free, control: free };
        let mut blast = Blast::listen(&any, limit).unwrap();
        let addresses = blast.addresses().unwrap();
        let running = thread::spawn(move || blast.run());
        let remote = Remote::connect(addresses.control).unwrap();
        Self { addresses, remote, running }
    }

    /// A session that has subscribed.
    fn session(&self) -> WebSocket<std::net::TcpStream> {
        let stream = std::net::TcpStream::connect(self.addresses.blackhole).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{}/", self.addresses.blackhole);
        let (mut socket, _) = tungstenite::client(url, stream).unwrap();
        let command =
            format!(r#"{{"action":"subscribe","request_id":"1","data":{{"binding":"{BINDING}"}}}}"#);
        socket.send(Message::text(command)).unwrap();
        let reply = socket.read().unwrap();
        assert!(reply.to_text().unwrap().contains(r#""status":"success""#), "{reply}");
        socket
    }

    fn end(self) {
        drop(self.remote);
        self.running.join().unwrap().unwrap();
    }
}

fn read(socket: &mut WebSocket<std::net::TcpStream>) -> u64 {
    let message = socket.read().unwrap();
    let frame: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    frame["data"]["msg_id"].as_str().unwrap().parse().unwrap()
}

#[test]
fn every_session_gets_every_event_and_no_more_than_were_asked_for() {
    let mut source = Steered::start(None);
    let mut sessions = [source.session(), source.session()];
    source.remote.start(Order { speed: Speed::Rate(10_000.0), burst: 32, count: 100 }).unwrap();
    for session in &mut sessions {
        for sequence in 1..=100 {
            assert_eq!(read(session), sequence);
        }
    }
    assert_eq!(source.remote.stop().unwrap(), Sent { events: 100, vanished: 0 });
    source.end();
}

#[test]
fn a_closed_loop_waits_for_what_consumers_report() {
    let mut source = Steered::start(None);
    let mut session = source.session();
    source.remote.start(Order { speed: Speed::Closed { ahead: 64 }, burst: 32, count: 0 }).unwrap();
    for sequence in 1..=64 {
        assert_eq!(read(&mut session), sequence);
    }
    // Two reports let go two bursts, not one more.
    source.remote.consumed(1).unwrap();
    for sequence in 65..=96 {
        assert_eq!(read(&mut session), sequence);
    }
    assert_eq!(source.remote.stop().unwrap().events, 96);
    source.end();
}

/// Who does not read loses what is above the limit, as with 4.3; what was taken before that comes.
#[test]
fn what_waits_above_the_limit_vanishes_and_is_counted() {
    let mut source = Steered::start(Some(50));
    let mut session = source.session();
    let events = 20_000;
    source.remote.start(Order { speed: Speed::Rate(1e9), burst: 32, count: events }).unwrap();
    let mut sent = source.remote.stop().unwrap();
    while sent.events < events {
        // A stop gives up the rest of an order.
        let left = events - sent.events;
        source.remote.start(Order { speed: Speed::Rate(1e9), burst: 32, count: left }).unwrap();
        thread::sleep(Duration::from_millis(10));
        sent = source.remote.stop().unwrap();
    }
    assert!(sent.vanished > 0, "{sent:?}: the kernel does not hold 28 MB");
    let mut last = 0;
    for _ in 0..events - sent.vanished {
        let sequence = read(&mut session);
        assert!(sequence > last, "{sequence} behind {last}");
        last = sequence;
    }
    source.end();
}

#[test]
fn it_can_be_ended_from_outside() {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let any = Addresses { crossbar: free, blackhole: free, control: free };
    let mut blast = Blast::listen(&any, None).unwrap();
    let ender = blast.ender();
    let running = thread::spawn(move || blast.run());
    ender.end();
    running.join().unwrap().unwrap();
}
