//! A stream that has to end while it still has something begun to say: that is said first.

use super::*;

/// Why it has to end, and how it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Drain,
    Operator,
    Age,
    Deadline,
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
