//! Trouble on the way to a session.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::upstream::TransportError;

use super::*;

fn token_refused() -> String {
    format!("failed to authenticate token {TOKEN}")
}

/// Nothing that was recorded shows a secret.
fn assert_clean(bench: &Bench) {
    let shown = format!("{:?}", bench.log.controls());
    assert!(!shown.contains("SECRET"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_tried_again_after_a_long_time_only() {
    let echo = json!({"error":"401","message":"SECRET-KEY"}).to_string();
    let answers = [Ok((401, echo.clone())), Ok((401, echo)), Ok(login()), Ok(facts())];
    let mut bench =
        Bench::start_with(&["call.*.*"], FakeTransport::answering(answers), config::Upstream::default());
    bench.settle().await;
    let detail = "Crossbar refuses the credentials (401); the next attempt is made after 1m";
    assert_eq!(bench.state(), (UpstreamState::Down, detail.to_owned()));
    let mut peer = bench.accept().await;
    assert!((120.0..132.1).contains(&bench.seconds()), "{}", bench.seconds());
    peer.confirm(1).await;
    bench.settle().await;
    assert_eq!(bench.story(), ["Connecting", "Down", "Connecting", "+call.*.*", "Live"], "said once");
    assert_clean(&bench);
}

#[tokio::test(start_paused = true)]
async fn a_refused_upgrade_is_tried_again_after_a_long_time_only() {
    for status in [400, 403, 429] {
        let mut bench = Bench::start(&["call.*.*"]);
        let mut raw = bench.dialled().await;
        raw.read_u8().await.unwrap();
        let answer = format!("HTTP/1.1 {status} SECRET\r\ncontent-length: 0\r\n\r\n");
        raw.write_all(answer.as_bytes()).await.unwrap();
        // The account's facts are asked for at the same time, and paced.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (state, detail) = bench.state();
        assert_eq!(state, UpstreamState::Down);
        assert!(detail.contains(&format!("HTTP status {status}")) && detail.contains("after 1m"), "{detail}");
        bench.accept().await;
        assert!((60.0..66.1).contains(&bench.seconds()), "{}", bench.seconds());
        assert_clean(&bench);
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_token_that_is_refused_is_replaced_at_once() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    peer.confirm(1).await;
    // After an outage the delays have grown long.
    bench.refusing.store(true, Ordering::Relaxed);
    drop(peer);
    tokio::time::sleep(Duration::from_secs(300)).await;
    bench.refusing.store(false, Ordering::Relaxed);
    while bench.dialled.try_recv().is_ok() {}
    let mut peer = bench.accept().await;
    let (id, _) = peer.command().await;
    let refused = bench.seconds();
    peer.error(&id, &token_refused()).await;
    drop(peer);
    let mut peer = bench.accept().await;
    assert!(bench.seconds() - refused < 0.6, "{}", bench.seconds() - refused);
    peer.confirm(1).await;
    let logins = bench.transport.requests.lock().iter().filter(|(line, _)| line.starts_with("PUT")).count();
    assert_eq!(logins, 2);
    assert_clean(&bench);
}

#[tokio::test(start_paused = true)]
async fn a_new_token_that_is_refused_is_a_refusal() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    let (id, _) = peer.command().await;
    peer.error(&id, &token_refused()).await;
    bench.settle().await;
    drop(peer);
    bench.accept().await;
    assert!((60.0..67.1).contains(&bench.seconds()), "{}", bench.seconds());
    assert_eq!(bench.state().1, "upstream does not accept the token");
    assert_clean(&bench);
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_is_tried_again_for_ever_and_said_once() {
    let mut bench = Bench::start(&["call.*.*"]);
    bench.refusing.store(true, Ordering::Relaxed);
    let mut attempts = 0;
    while bench.seconds() < 3600.0 {
        bench.dialled().await;
        attempts += 1;
    }
    // Full jitter below a cap of 30 s: 15 s on average.
    assert!((180..340).contains(&attempts), "{attempts}");
    assert_eq!(bench.story(), ["Connecting", "Down"]);
    bench.refusing.store(false, Ordering::Relaxed);
    let mut peer = bench.accept().await;
    peer.confirm(1).await;
    bench.settle().await;
    assert_eq!(bench.story()[2..], ["Connecting", "+call.*.*", "Live"]);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_takes_us_in_and_throws_us_out_is_spared() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut sessions = 0;
    while bench.seconds() < 3600.0 {
        // Live, but never for long.
        bench.accept().await.confirm(1).await;
        sessions += 1;
    }
    assert!(sessions < 340, "{sessions}");
}

#[tokio::test(start_paused = true)]
async fn a_token_close_to_its_end_is_not_used() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    peer.confirm(1).await;
    // An opaque token is taken to be good for an hour; a session outlives it (F21).
    peer.serve(Duration::from_secs(3550)).await;
    assert_eq!(bench.state().0, UpstreamState::Live);
    drop(peer);
    bench.accept().await.confirm(1).await;
    let logins = bench.transport.requests.lock().iter().filter(|(line, _)| line.starts_with("PUT")).count();
    assert_eq!(logins, 2);
}

#[tokio::test(start_paused = true)]
async fn crossbar_trouble_is_no_refusal() {
    let answers = [
        Err(TransportError::Refused),
        Ok((503, "SECRET".to_owned())),
        Ok((200, "<html>".to_owned())),
        Ok(login()),
        // The account's facts are not told: no reason not to connect.
        Ok((404, String::new())),
    ];
    let mut bench =
        Bench::start_with(&["call.*.*"], FakeTransport::answering(answers), config::Upstream::default());
    let mut peer = bench.accept().await;
    peer.confirm(1).await;
    bench.settle().await;
    assert!(bench.seconds() < 5.0, "{}", bench.seconds());
    assert_eq!(bench.story(), ["Connecting", "Down", "Down", "Down", "Connecting", "+call.*.*", "Live"]);
    assert_clean(&bench);
}

#[tokio::test(start_paused = true)]
async fn stops_while_it_waits_and_while_it_connects() {
    let mut bench = Bench::start(&[]);
    let _raw = bench.dialled().await;
    bench.stop.cancel();
    bench.task.await.unwrap();

    let bench = Bench::start_with(
        &[],
        FakeTransport::answering([Ok((401, String::new()))]),
        config::Upstream::default(),
    );
    bench.settle().await;
    let asked = Instant::now();
    bench.stop.cancel();
    bench.task.await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1));
}
