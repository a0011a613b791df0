//! How streams end that were told to: what was begun to be said is said first, and then goodbye.

use super::*;

/// Why it has to end, and how it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Drain,
    Operator,
    Age,
    Deadline,
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_goodbye() {
    let rig = Rig::new().await;
    let mut client = rig.connect(WIDE).await;
    let mut reader = client.subscribe().await;
    rig.publish("a", 10);
    reader.event().await.unwrap();
    rig.drain.cancel();
    loop {
        if let Kind::Draining(draining) = reader.next().await.unwrap().unwrap() {
            assert_eq!(draining.position.unwrap().sequence, rig.account.status().window.newest.0);
            break;
        }
    }
    assert_eq!(reader.next().await.unwrap(), None);
    assert_eq!(reader.trailers().await["grpc-status"], "14");
    drop(reader);
    client.connection.await.unwrap().unwrap();
    match client.server.await.unwrap() {
        // It may have had a last word for a client that was gone, and no other trouble.
        Err(ConnectionError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::BrokenPipe),
        ended => ended.unwrap(),
    }
    assert_eq!(rig.causes(), [Cause::Drained]);
}

#[tokio::test(start_paused = true)]
async fn who_is_dismissed_hears_of_it_at_once_and_nobody_else_does() {
    let rig = Rig::new().await;
    let mut client = rig.connect(WIDE).await;
    let mut leaves = client.subscribe().await;
    let mut stays = client.subscribe().await;
    let streams = rig.services.streams().clone();
    let began = Instant::now();
    // It waits for events, of which there are none.
    tokio::task::yield_now().await;
    assert!(streams.disconnect("s1".parse().unwrap()).is_some());
    let Kind::Draining(draining) = leaves.next().await.unwrap().unwrap() else { panic!("no Draining") };
    assert_eq!(draining.reason(), proto::DrainReason::Operator);
    assert_eq!(leaves.next().await.unwrap(), None);
    assert_eq!(leaves.trailers().await["grpc-status"], "14");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!((rig.causes(), streams.count()), (vec![Cause::Disconnected], 1));
    assert!(streams.disconnect("s1".parse().unwrap()).is_none(), "it has gone");
    rig.publish("a", 10);
    assert_eq!(stays.event().await.unwrap().call_id, "a");
}

/// A resume that misses the window, and a reason to end before the gap was taken. `Subscribed` has told the position behind it
/// already, and `Draining` would tell it again: whoever resumes from there would never hear of what is missing.
#[tokio::test(start_paused = true)]
async fn the_gap_at_the_start_is_told_before_the_goodbye() {
    for why in [Why::Drain, Why::Operator, Why::Age, Why::Deadline] {
        let long = Duration::from_secs(3600);
        let settings = config::Grpc {
            max_stream_age: (why == Why::Age).then_some(Duration::from_secs(60)),
            stall_timeout: long,
            ..config::Grpc::default()
        };
        let rig = Rig::with(settings, config::Hub { log_records: 10, ..config::Hub::default() }).await;
        for index in 0..30 {
            rig.publish(&index.to_string(), 10);
        }
        let window = rig.account.status().window;
        // Not even `Subscribed` fits: nothing is taken from the subscription until the client reads.
        let mut client = rig.connect(Windows { stream: 64, ..WIDE }).await;
        let mut request = call();
        if why == Why::Deadline {
            request.headers_mut().insert("grpc-timeout", "1S".parse().unwrap());
        }
        let (response, mut body) = client.requests.send_request(request, false).unwrap();
        let resume = proto::Cursor { epoch: window.epoch.to_string(), sequence: 1 };
        let resume = proto::SubscribeRequest {
            start: Some(proto::subscribe_request::Start::ResumeAfter(resume)),
            replay_miss_policy: proto::ReplayMissPolicy::Gap.into(),
            ..subscribe_request()
        };
        body.send_data(message::frame(&resume), true).unwrap();
        while rig.services.streams().count() == 0 {
            tokio::task::yield_now().await;
        }
        match why {
            Why::Drain => rig.drain.cancel(),
            Why::Operator => drop(rig.services.streams().disconnect("s1".parse().unwrap()).unwrap()),
            Why::Age | Why::Deadline => tokio::time::sleep(Duration::from_secs(100)).await,
        }
        tokio::task::yield_now().await;

        let mut reader = Reader::begin(response).await;
        assert_eq!(reader.position, window.oldest.0, "{why:?}");
        match reader.next().await.unwrap() {
            Some(Kind::Gap(gap)) => {
                assert_eq!(gap.after.unwrap().sequence, 1, "{why:?}");
                assert_eq!(gap.before.unwrap().sequence, window.oldest.0 + 1, "{why:?}");
            }
            other => panic!("{why:?}: the gap comes first, not {other:?}"),
        }
        let code = if why == Why::Deadline {
            "4"
        } else {
            let Some(Kind::Draining(draining)) = reader.next().await.unwrap() else {
                panic!("{why:?}: no Draining")
            };
            assert_eq!(draining.position.unwrap().sequence, window.oldest.0, "{why:?}");
            "14"
        };
        assert_eq!(reader.next().await.unwrap(), None, "{why:?}: nothing that was not begun");
        assert_eq!(reader.trailers().await["grpc-status"], code, "{why:?}");
    }
}
