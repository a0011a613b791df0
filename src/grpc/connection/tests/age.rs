//! Streams that reach their greatest age.

use tonic::{Code, Status};

use super::*;

const AGE: Duration = Duration::from_secs(3600);

async fn rig() -> Rig {
    Rig::with(
        config::Grpc { max_stream_age: Some(AGE), stall_timeout: 2 * AGE, ..config::Grpc::default() },
        config::Hub { log_age: 10 * AGE, ..config::Hub::default() },
    )
    .await
}

/// Reads to the end: events, the position at which it is to be resumed, the status.
async fn end(reader: &mut Reader) -> (Vec<String>, proto::Cursor, Status) {
    let (mut events, mut farewell) = (Vec::new(), None);
    while let Some(kind) = reader.next().await.unwrap() {
        assert!(farewell.is_none(), "nothing comes after Draining: {kind:?}");
        match kind {
            Kind::Event(event) => events.push(event.call_id),
            Kind::Heartbeat(_) => {}
            Kind::Draining(draining) => {
                assert_eq!(draining.reason(), proto::DrainReason::MaxStreamAge);
                farewell = draining.position;
            }
            other => panic!("{other:?}"),
        }
    }
    let status = Status::from_header_map(&reader.trailers().await).expect("a status");
    (events, farewell.expect("Draining comes before the end"), status)
}

#[tokio::test(start_paused = true)]
async fn each_ends_around_its_age_and_goes_on_where_it_was() {
    let rig = rig().await;
    let mut client = rig.connect(WIDE).await;
    let mut lives = Vec::new();
    for round in 0..20 {
        let began = Instant::now();
        let mut reader = client.subscribe().await;
        rig.publish("before", 10);
        let (events, position, status) = end(&mut reader).await;
        let life = began.elapsed();
        assert!(life > AGE.mul_f64(0.9) && life < AGE.mul_f64(1.1) + Duration::from_millis(2), "{life:?}");
        lives.push(life);
        assert_eq!(events, ["before"]);
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("age"), "{status:?}");
        rig.publish("meanwhile", 10);

        // On the same connection: that stays.
        let resumed = proto::SubscribeRequest {
            start: Some(proto::subscribe_request::Start::ResumeAfter(position)),
            ..subscribe_request()
        };
        let mut reader = client.subscribe_with(resumed).await;
        assert_eq!(reader.event().await.unwrap().call_id, "meanwhile", "round {round}");
        drop(reader);
    }
    let (shortest, longest) = (lives.iter().min().unwrap(), lives.iter().max().unwrap());
    assert!(*longest - *shortest > AGE.mul_f64(0.1), "not all at once: {shortest:?} to {longest:?}");
    let aged = rig.causes().iter().filter(|cause| **cause == Cause::MaxStreamAge).count();
    assert_eq!(aged, 20);
}

/// The timer of a connection is set anew by streams that come later and end earlier; and all of many end.
#[tokio::test(start_paused = true)]
async fn many_streams_share_one_timer() {
    let rig = rig().await;
    let mut client = rig.connect(WIDE).await;
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let began = Instant::now();
        let mut reader = client.subscribe().await;
        streams.spawn(async move {
            end(&mut reader).await;
            began.elapsed()
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    while let Some(life) = streams.join_next().await {
        let life = life.unwrap();
        assert!(life > AGE.mul_f64(0.9) && life < AGE.mul_f64(1.1) + Duration::from_millis(2), "{life:?}");
    }
    assert_eq!(rig.causes(), [Cause::MaxStreamAge; 100]);
}

/// Who reaches it while it waits for window says so once it has some.
#[tokio::test(start_paused = true)]
async fn what_was_begun_is_sent_first() {
    let rig = rig().await;
    let mut client = rig.connect(Windows { stream: 64 << 10, ..WIDE }).await;
    let mut reader = client.subscribe().await;
    rig.publish("large", 100 << 10);
    tokio::time::sleep(AGE.mul_f64(1.2)).await;
    assert_eq!(rig.causes(), []);
    let (events, _, status) = end(&mut reader).await;
    assert_eq!((events, status.code()), (vec!["large".to_owned()], Code::Unavailable));
}
