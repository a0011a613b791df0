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

    /// Ends it, with sessions that have read all that they were sent: nothing more comes to them.
    fn end(self, sessions: impl IntoIterator<Item = WebSocket<std::net::TcpStream>>) {
        drop(self.remote);
        self.running.join().unwrap().unwrap();
        for mut session in sessions {
            let more = session.read();
            assert!(
                matches!(more, Err(tungstenite::Error::Protocol(_))),
                "the end, without a goodbye: {more:?}"
            );
        }
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
    source.end(sessions);
}

#[test]
fn a_closed_loop_waits_for_what_consumers_report() {
    let mut source = Steered::start(None);
    let mut session = source.session();
    source.remote.start(Order { speed: Speed::Closed { ahead: 64 }, burst: 32, count: 0 }).unwrap();
    for sequence in 1..=64 {
        assert_eq!(read(&mut session), sequence);
    }
    // Room for one event is room for a burst, and not for one more.
    source.remote.consumed(1).unwrap();
    for sequence in 65..=96 {
        assert_eq!(read(&mut session), sequence);
    }
    assert_eq!(source.remote.stop().unwrap().events, 96);
    source.end([session]);
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
    // What vanished was counted, and nothing else: there is room again, and what comes next is what is sent next.
    source.remote.start(Order { speed: Speed::Rate(1e9), burst: 1, count: 1 }).unwrap();
    assert_eq!(read(&mut session), events + 1);
    assert_eq!(source.remote.stop().unwrap(), Sent { events: events + 1, vanished: sent.vanished });
    source.end([session]);
}

/// A session whose queue holds frames that end there, and whose socket has taken so many bytes.
fn session_that_waits(ends: &[usize], written: usize) -> Connection {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    Connection {
        stream: TcpStream::from_std(stream),
        role: Role::Session { live: true },
        inbox: Vec::new(),
        outbox: vec![b'x'; ends.last().copied().unwrap_or(written)],
        written,
        waiting: ends.iter().copied().filter(|end| *end > written).collect(),
    }
}

/// Whole frames, the newest ones, and as many as are too many. One that the socket has begun to take counts as waiting.
#[test]
fn as_many_frames_vanish_as_are_above_the_limit() {
    let ends = [10, 20, 30, 40, 50];
    for (written, limit, vanish) in [
        (0, 5, 0),
        (0, 4, 1),
        (0, 1, 4),
        (10, 4, 0),
        (15, 4, 0),
        (15, 3, 1),
        (20, 1, 2),
        (49, 1, 0),
        (50, 1, 0),
    ] {
        let mut session = session_that_waits(&ends, written);
        assert_eq!(session.vanish_above(limit), vanish, "{written} written, a limit of {limit}");
        let left = &ends[..ends.len() - vanish as usize];
        assert_eq!(session.outbox.len(), *left.last().unwrap(), "the end of a frame");
        assert_eq!(session.waiting, left.iter().copied().filter(|end| *end > written).collect::<Vec<_>>());
        assert_eq!(session.vanish_above(limit), 0, "once");
    }
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
