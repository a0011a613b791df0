//! A transport that takes nothing for a while, or ever, while the client goes on to send.

use std::sync::atomic::AtomicBool;

use futures_util::task::AtomicWaker;

use super::*;

/// Takes nothing while it is jammed. What comes is read all the same.
struct Jammed {
    io: DuplexStream,
    jam: Arc<Jam>,
}

#[derive(Default)]
struct Jam {
    is_on: AtomicBool,
    waker: AtomicWaker,
}

impl Jam {
    fn set(&self, on: bool) {
        self.is_on.store(on, Ordering::SeqCst);
        self.waker.wake();
    }
}

impl AsyncRead for Jammed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Jammed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.jam.waker.register(cx.waker());
        match self.jam.is_on.load(Ordering::SeqCst) {
            true => Poll::Pending,
            false => Pin::new(&mut self.io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Rig {
    fn jammable(&self) -> (DuplexStream, JoinHandle<Result<(), ConnectionError>>, Arc<Jam>) {
        let (client, io) = duplex(WIDE.pipe);
        let jam = Arc::<Jam>::default();
        let transport = Jammed { io, jam: jam.clone() };
        (client, self.serve(std::future::ready(Ok(transport))), jam)
    }
}

/// It had no window, reads, and gives window; but the transport takes nothing just then. It is told that the log has overtaken
/// it, and not reset as if it did not read.
#[tokio::test(start_paused = true)]
async fn who_gives_window_while_the_transport_is_stuck_has_read() {
    let hub = config::Hub { log_bytes: 1 << 20, ..config::Hub::default() };
    let rig = Rig::with(config::Grpc::default(), hub).await;
    let (io, server, jam) = rig.jammable();
    let windows = Windows { stream: 64 << 10, ..WIDE };
    let mut client = Client::over(io, server, Arc::default(), windows).await;
    let mut slow = client.subscribe().await;
    let mut healthy = client.subscribe().await;
    for index in 0..10 {
        rig.publish(&index.to_string(), 10_000);
        assert_eq!(healthy.event().await.unwrap().call_id, index.to_string());
    }
    // From here on it is stalled, and there is a look every 3.75 s.
    tokio::time::sleep(Duration::from_secs(1)).await;
    jam.set(true);
    for index in 0..200 {
        rig.publish(&index.to_string(), 10_000);
        tokio::task::yield_now().await;
    }
    for _ in 0..5 {
        slow.event().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.causes(), [], "it has window");
    jam.set(false);
    while slow.next().await.unwrap_or_else(|error| panic!("{error}: {:?}", rig.causes())).is_some() {}
    assert_eq!(slow.trailers().await["grpc-status"], "10");
    assert_eq!(rig.causes().last(), Some(&Cause::SlowConsumer));
}

/// One that takes nothing, but sends something now and then, is found out all the same.
#[tokio::test(start_paused = true)]
async fn who_never_reads_but_sends_is_given_up() {
    let rig = Rig::new().await;
    let (io, server, jam) = rig.jammable();
    let (mut requests, mut connection) = h2::client::handshake(io).await.unwrap();
    let (response, mut body) = requests.send_request(call(), false).unwrap();
    body.send_data(message::frame(&subscribe_request()), true).unwrap();
    let reader = tokio::select! {
        reader = Reader::begin(response) => reader,
        _ = &mut connection => panic!("it ended"),
    };
    jam.set(true);
    let began = Instant::now();
    rig.publish("1", 1000);
    let talks = async {
        for size in 1.. {
            if tokio::time::timeout(Duration::from_secs(20), &mut connection).await.is_ok() {
                // It is over. Asked again it would say so at once, and nobody else would have a turn.
                return std::future::pending().await;
            }
            connection.set_target_window_size((1 << 20) + size);
        }
    };
    let ended = tokio::select! {
        ended = server => ended,
        () = talks => unreachable!(),
        () = tokio::time::sleep(Duration::from_secs(600)) => panic!("it is still served"),
    };
    let error = ended.unwrap().unwrap_err();
    assert!(matches!(error, ConnectionError::Ping(_)), "{error}");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(50) && took < Duration::from_secs(52), "{took:?}");
    assert_eq!(rig.causes(), [Cause::KeepaliveTimeout]);
    drop(reader);
}
