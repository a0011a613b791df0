//! How sessions end, and what is said of it.

use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::*;

/// A live session.
async fn live() -> (Bench, Peer) {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    peer.confirm(1).await;
    bench.settle().await;
    assert_eq!(bench.state().0, UpstreamState::Live);
    (bench, peer)
}

#[tokio::test(start_paused = true)]
async fn a_cut_opens_a_gap_before_the_last_frame_and_the_next_session_binds_again() {
    let (mut bench, mut peer) = live().await;
    peer.serve(Duration::from_secs(5)).await;
    peer.send(event("CHANNEL_CREATE", "x", "m1", "k")).await;
    bench.settle().await;
    let read = bench.now();
    peer.serve(Duration::from_secs(1)).await;
    peer.send(event("CHANNEL_CREATE", "x", "m2", "k")).await;
    bench.settle().await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    drop(peer);
    let mut peer = bench.accept().await;
    // When the last frame was read, it may have lain there for as long as nobody looked: since the one before.
    let lost = read.duration_since(bench.lost_since()).unwrap();
    assert!(lost <= Duration::from_millis(2), "{lost:?} before the last time that all was read");
    assert_eq!(peer.confirm(1).await, ["call.*.*"]);
    bench.settle().await;
    assert_eq!(bench.story()[4..], ["Down", "Lost", "Connecting", "+call.*.*", "Live"]);
    let logins = bench.transport.requests.lock().iter().filter(|(line, _)| line.starts_with("PUT")).count();
    assert_eq!(logins, 1, "the token is still good");
}

#[tokio::test(start_paused = true)]
async fn a_silent_death_is_noticed_and_the_gap_begins_at_most_one_ping_interval_before_it() {
    for quiet_before in [1, 3, 10, 14, 20, 50, 61] {
        let (mut bench, mut peer) = live().await;
        peer.serve(Duration::from_secs(quiet_before)).await;
        let death = bench.now();
        // The connection stays open, and nothing is read or answered any more.
        let next = bench.accept().await;
        let excess = death.duration_since(bench.lost_since()).unwrap();
        assert!(excess <= Duration::from_secs(15), "{excess:?} after {quiet_before} s");
        let noticed = bench.now().duration_since(bench.lost_since()).unwrap();
        assert!(noticed >= Duration::from_secs(35) && noticed < Duration::from_secs(36), "{noticed:?}");
        assert!(bench.story().ends_with(&["Down".into(), "Lost".into()]), "{:?}", bench.story());
        drop((peer, next));
        bench.stop.cancel();
        bench.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn any_frame_is_life() {
    let (bench, mut peer) = live().await;
    for n in 0..100 {
        // No pongs: only frames of the peer's own.
        let message = match n % 3 {
            0 => Message::Ping(Default::default()),
            1 => Message::Binary(Default::default()),
            _ => Message::text("{}"),
        };
        peer.0.feed(message).await.unwrap();
        peer.0.flush().await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    assert_eq!(bench.state().0, UpstreamState::Live);
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_the_socket_after_a_pause_of_our_own_is_life() {
    let (bench, mut peer) = live().await;
    // Both are there at once: the deadline, and a frame. (`settle` took the one millisecond since the last one.)
    tokio::time::sleep(Duration::from_millis(35_000 - 1)).await;
    peer.send(event("CHANNEL_CREATE", "x", "m1", "k")).await;
    bench.settle().await;
    assert_eq!(bench.state().0, UpstreamState::Live);
    assert_eq!(bench.log.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_close_code_has_its_cause() {
    for (code, detail) in [
        (1000, "upstream closed the session as idle (1000)"),
        (1002, "upstream closed the session over the protocol (1002)"),
        (1007, "upstream closed the session over the protocol (1007)"),
        (1011, "upstream's side of the session crashed (1011)"),
        (4001, "upstream closed the session (4001)"),
    ] {
        let (bench, mut peer) = live().await;
        let frame = CloseFrame { code: CloseCode::from(code), reason: TOKEN.into() };
        peer.0.send(Message::Close(Some(frame))).await.unwrap();
        // The close frame is answered before the connection goes.
        let echo = peer.0.next().await.unwrap().unwrap();
        assert!(matches!(echo, Message::Close(Some(frame)) if u16::from(frame.code) == code));
        drop(peer);
        bench.settle().await;
        assert_eq!(bench.state(), (UpstreamState::Down, detail.to_owned()));
        assert!(bench.story().contains(&"Lost".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_websocket_ends_the_session() {
    let (bench, mut peer) = live().await;
    peer.0.get_mut().write_all(&[0xff; 64]).await.unwrap();
    bench.settle().await;
    assert_eq!(bench.state(), (UpstreamState::Down, "upstream sent something that is no WebSocket".into()));

    let (bench, mut peer) = live().await;
    // The header of a text frame of 1 GiB.
    peer.0.get_mut().write_all(&[0x81, 127, 0, 0, 0, 0, 0x40, 0, 0, 0]).await.unwrap();
    bench.settle().await;
    assert_eq!(bench.state(), (UpstreamState::Down, "upstream sent a message that is too large".into()));
}

#[tokio::test(start_paused = true)]
async fn frames_that_cannot_be_read_do_not_end_it() {
    let (bench, mut peer) = live().await;
    for text in ["", "{", "null", "[1]", r#"{"action":"event"}"#, r#"{"action":"reply"}"#] {
        peer.send(text).await;
    }
    peer.send(event("CHANNEL_CREATE", "x", "m1", "k")).await;
    bench.settle().await;
    assert_eq!(bench.log.events().len(), 1);
    assert_eq!(bench.state().0, UpstreamState::Live);
}

#[tokio::test(start_paused = true)]
async fn asked_to_stop_it_says_goodbye_and_reads_to_the_end() {
    let (bench, mut peer) = live().await;
    bench.stop.cancel();
    let Message::Close(Some(frame)) = peer.message().await else { panic!("no close frame") };
    assert_eq!(u16::from(frame.code), 1000);
    drop(peer);
    bench.task.await.unwrap();
    let story: Vec<String> = bench.log.controls().iter().map(|control| format!("{control:?}")).collect();
    assert!(story[story.len() - 2].starts_with("Lost"), "{story:?}");
    assert!(story[story.len() - 1].contains("hawking closed the session"), "{story:?}");
}

#[tokio::test(start_paused = true)]
async fn asked_to_stop_it_does_not_wait_for_a_dead_peer() {
    let (bench, _peer) = live().await;
    let asked = Instant::now();
    bench.stop.cancel();
    bench.task.await.unwrap();
    assert!(asked.elapsed() <= Duration::from_secs(1), "{:?}", asked.elapsed());
}
