//! Connections: the accept loop, and what becomes of each connection until it ends.
//!
//! hyper speaks HTTP/2; everything around it is here, because a gateway has to answer for each connection: how many there
//! are, how long one may take to say hello, and that all of them end in time.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::Semaphore,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Server,
    services::{NewServicesError, Services},
};

/// The pause after accepting failed for want of resources (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Headers of one request, in bytes.
const MAX_HEADER_LIST: u32 = 16 << 10;
/// What a client has sent once it said hello: the preface of HTTP/2 and the head of its SETTINGS frame.
const HELLO: usize = 24 + 9;
/// One warning of each kind in this time, however often it happens.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

impl Server {
    /// Accepts and serves until `drain` is cancelled. Then: no more connections, health says NOT_SERVING, each connection
    /// is told to go away, each stream gets `Draining` and the status UNAVAILABLE. Returns when all have ended, or after
    /// the grace, having cut what was left. Dropping the future cuts everything at once.
    ///
    /// # Errors
    ///
    /// If the services cannot be set up; nothing was accepted then.
    pub async fn serve(
        self,
        listener: TcpListener,
        drain: CancellationToken,
    ) -> Result<(), NewServicesError> {
        let settings = self.settings.clone();
        let grace = self.grace;
        let services = Services::new(self).await?;
        let permits = Arc::new(Semaphore::new(settings.max_connections));
        let tasks = Tasks::default();
        let _cut_on_drop = tasks.cut.clone().drop_guard();
        let draining = CancellationToken::new();
        let mut warned = Throttle::default();

        loop {
            let accepted = tokio::select! {
                biased;
                () = drain.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    // The connection stays in the backlog, so that accepting again at once would spin.
                    if warned.pass() {
                        tracing::warn!(%error, "connections cannot be accepted at the moment");
                    }
                    tokio::select! {
                        () = drain.cancelled() => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                    }
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                // Closed rather than left waiting: the client can try elsewhere.
                if warned.pass() {
                    tracing::warn!(limit = settings.max_connections, %peer, "connection refused: there are too many");
                }
                continue;
            };
            // Without it small frames wait for acknowledgements. It fails only for a socket that is gone already.
            let _ = socket.set_nodelay(true);
            let services = services.clone();
            let draining = draining.child_token();
            let connection_tasks = tasks.child();
            tasks.spawn(async move {
                let _permit = permit;
                match serve_connection(socket, services, draining, connection_tasks).await {
                    Ok(()) => tracing::debug!(%peer, "connection ended"),
                    Err(error) => tracing::debug!(%peer, %error, "connection ended"),
                }
            });
        }

        drop(listener);
        services.not_serving().await;
        tracing::info!(connections = tasks.tracker.len(), ?grace, "the gRPC server drains");
        draining.cancel();
        tasks.tracker.close();
        if tokio::time::timeout(grace, tasks.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = tasks.tracker.len(), "the grace is over: cutting what is left");
            tasks.cut.cancel();
            tasks.tracker.wait().await;
        }
        Ok(())
    }
}

/// Why a connection ended, if not because both sides were done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("no HTTP/2 hello within {0:?}")]
    Handshake(Duration),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// Serves one connection over any transport to its end; `drain` asks for that end.
pub(crate) async fn serve_connection<IO>(
    io: IO,
    services: Services,
    drain: CancellationToken,
    tasks: Tasks,
) -> Result<(), ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = services.shared().settings.clone();
    let io = Counted { io, read: Arc::default() };
    let read = io.read.clone();
    let service = {
        let drain = drain.clone();
        service_fn(move |request: Request<Incoming>| services.clone().call(drain.clone(), request))
    };
    let connection = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.keepalive_interval)
        .keep_alive_timeout(settings.keepalive_timeout)
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_send_buf_size(settings.send_buffer_bytes)
        .max_header_list_size(MAX_HEADER_LIST)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);

    // hyper waits for the hello without a bound of its own. Anything that is no HTTP/2 it refuses by itself; who has said
    // hello is watched by keepalive.
    let hello = tokio::time::sleep_until(Instant::now() + settings.handshake_timeout);
    let mut hello = pin!(hello);
    let mut waiting_for_hello = true;
    let mut told_to_go = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = &mut hello, if waiting_for_hello => {
                if read.load(Ordering::Relaxed) < HELLO {
                    return Err(ConnectionError::Handshake(settings.handshake_timeout));
                }
                waiting_for_hello = false;
            }
            () = drain.cancelled(), if !told_to_go => {
                if read.load(Ordering::Relaxed) < HELLO {
                    // Nobody to tell yet, and hyper would go on waiting.
                    return Ok(());
                }
                connection.as_mut().graceful_shutdown();
                told_to_go = true;
            }
        }
    }
}

/// Owns every task of the server: the connections, and those that hyper starts for their streams.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    /// Ends all of them at once.
    cut: CancellationToken,
}

impl Tasks {
    /// The same, with a token of its own, so that the tasks of one connection do not meet those of others at one lock.
    fn child(&self) -> Self {
        Self { tracker: self.tracker.clone(), cut: self.cut.child_token() }
    }

    fn spawn(&self, task: impl Future<Output: Send> + Send + 'static) {
        self.tracker.spawn(self.cut.clone().run_until_cancelled_owned(task));
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

/// Counts the bytes read, to know whether the client has said hello.
struct Counted<IO> {
    io: IO,
    read: Arc<AtomicUsize>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.read.fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Whether accepting failed for the connection that was to be accepted, not for the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Lets one warning pass in each interval.
#[derive(Default)]
struct Throttle(Option<Instant>);

impl Throttle {
    fn pass(&mut self) -> bool {
        let now = Instant::now();
        let pass = self.0.is_none_or(|last| now - last >= WARN_INTERVAL);
        if pass {
            self.0 = Some(now);
        }
        pass
    }
}
