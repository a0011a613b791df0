//! What operators' tools ask over plain HTTP: is it alive, is it ready, how does it fare, how is it set.
//!
//! - `/livez`: 200, as long as anything can be answered. Nothing is checked: what would be (the upstream above all) does not
//!   get better by a restart, and a restart costs the log.
//! - `/readyz`: 200 while consumers are let in, 503 from when a drain begins. It does not follow the upstream either: a
//!   server without one still serves what it has, and says so.
//! - `/metrics`: for Prometheus, as text or, where that is asked for, as OpenMetrics.
//! - `/config`: all settings in force, without secrets.
//!
//! It only reads, and is for people and machines who may know how this server fares; there is no login. A client can hold
//! no more than one of a few connections, for a bounded time.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::telemetry::{
    metrics::{Form, Metrics},
    throttle::Throttle,
};

/// Connections at most: probes and scrapers are few. More wait in the backlog until one ends.
const MAX_CONNECTIONS: usize = 64;
/// The head of a request must have come within this. Short: if clients who say nothing held all connections, a liveness probe
/// would wait behind them, and the process be killed for it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is ended after this, so that one whose client does not read is too.
const CONNECTION_AGE: Duration = Duration::from_secs(15);
/// What a connection that is to end gets for the answer that is under way.
const GRACE: Duration = Duration::from_secs(2);
/// The head of a request, in bytes and in lines.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// The pause after accepting failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// One warning in this time, however often it fails.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

const TEXT: &str = "text/plain; charset=utf-8";
const INDEX: &str = "\
hawking

/livez    200 while this process answers
/readyz   200 while consumers are let in, 503 once it drains
/metrics  for Prometheus
/config   all settings in force, without secrets
";

/// What there is to be asked.
pub struct Pages {
    /// Whether consumers are let in.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
    /// All settings in force as TOML, without secrets.
    pub config: Box<dyn Fn() -> String + Send + Sync>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// Answers until `stop`; then the answers that are under way are finished. Dropping the future cuts them.
pub async fn serve(listener: TcpListener, pages: Pages, stop: CancellationToken) {
    let pages = Arc::new(pages);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tracker = TaskTracker::new();
    let stopped = stop.child_token();
    // Where this future is dropped nobody waits for the connections: they end at once.
    let cut = CancellationToken::new();
    let _cut_on_drop = cut.clone().drop_guard();
    let mut failed = Throttle::every(WARN_INTERVAL).counted(pages.metrics.lines_suppressed());
    loop {
        let accept = async {
            // It is never closed.
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                let connection = connection(socket, pages.clone(), stopped.clone());
                let cut = cut.child_token();
                tracker.spawn(async move {
                    let _permit = permit;
                    cut.run_until_cancelled_owned(connection).await
                });
            }
            Err(error) => {
                if let Some(count) = failed.hit(tokio::time::Instant::now()) {
                    warn!(%error, count, "connections to the admin HTTP listener cannot be accepted at the moment");
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

/// Serves one connection to its end.
async fn connection(socket: TcpStream, pages: Arc<Pages>, stop: CancellationToken) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let pages = pages.clone();
        async move {
            Ok::<_, Infallible>(
                answer(&pages, request.method(), request.uri().path(), request.headers()).await,
            )
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Who has been answered makes room.
        .keep_alive(false)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = sleep(CONNECTION_AGE) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection to the admin HTTP listener ended");
    }
}

async fn answer(
    pages: &Arc<Pages>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/" => text(StatusCode::OK, TEXT, INDEX),
        "/livez" => text(StatusCode::OK, TEXT, "alive\n"),
        "/readyz" if (pages.ready)() => text(StatusCode::OK, TEXT, "ready\n"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n"),
        "/metrics" => metrics(pages, headers).await,
        "/config" => text(StatusCode::OK, "application/toml; charset=utf-8", (pages.config)()),
        // Not the path: it may be anything.
        _ => text(StatusCode::NOT_FOUND, TEXT, format!("there is no such page\n\n{INDEX}")),
    }
}

async fn metrics(pages: &Arc<Pages>, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let form = wanted_form(headers);
    let metrics = pages.metrics.clone();
    // It takes a while where there are many accounts.
    match tokio::task::spawn_blocking(move || metrics.expose(form)).await {
        Ok(page) => text(StatusCode::OK, form.content_type(), page),
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            TEXT,
            "the metrics cannot be read: a defect, see the log\n",
        ),
    }
}

/// What the client prefers (RFC 9110, 12.5.1): OpenMetrics only where it is named.
fn wanted_form(headers: &HeaderMap) -> Form {
    let ranges = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let (mut openmetrics, mut plain) = (0.0, 0.0);
    for range in ranges.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let quality =
            parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |text| text.parse().unwrap_or(0.0));
        match kind {
            "application/openmetrics-text" => openmetrics = f64::max(openmetrics, quality),
            "text/plain" => plain = f64::max(plain, quality),
            _ => {}
        }
    }
    if openmetrics > plain { Form::OpenMetrics } else { Form::Prometheus }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_given_to_those_who_prefer_it() {
        let form = |accept: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(header::ACCEPT, value.parse().unwrap());
            }
            wanted_form(&headers)
        };
        for plain in [
            &[][..],
            &["*/*"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
            &["text/plain;version=0.0.4"],
            &["application/openmetrics-text;q=0.2, text/plain;q=0.5"],
            &["application/openmetrics-text;q=nonsense"],
        ] {
            assert_eq!(form(plain), Form::Prometheus, "{plain:?}");
        }
        // As Prometheus sends it.
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for preferred in [
            &["application/openmetrics-text"][..],
            &[prometheus],
            &["text/plain;q=0.1", "application/openmetrics-text"],
        ] {
            assert_eq!(form(preferred), Form::OpenMetrics, "{preferred:?}");
        }
    }
}
