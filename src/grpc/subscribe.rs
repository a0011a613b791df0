//! The request half of `Subscribe`: from the bytes of a request to a subscription, or to the status that refuses it.
//!
//! It is served by hand, not by tonic's generated server: that one encodes each message for each stream, where here the
//! encoded frames are shared (see [`stream`](super::stream)).

use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use prost::Message;
use tokio::time::Instant;
use tonic::Status;

use crate::{
    hub,
    proto::{self, subscribe_response::Kind},
    random::{self, Random},
    telemetry::metrics::StreamStart,
};

use super::{
    content::Content,
    limits, message,
    services::{Caller, Shared},
    status,
    stream::{EventStream, Setup},
    streams::Consumer,
};

/// Where it is called.
pub(crate) const PATH: &str = "/hawking.v1.EventService/Subscribe";

/// The one message of the request must have come within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one call.
pub(crate) async fn serve<B>(shared: &Shared, caller: Caller, request: Request<B>) -> Response<Content>
where
    B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
{
    let arrived = Instant::now();
    if !is_grpc(request.headers()) || request.method() != Method::POST {
        // What does not speak gRPC would not understand a status in trailers either.
        let mut response = Response::new(Content::other(tonic::body::Body::empty()));
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let peer = caller.peer;
    match begin(shared, caller, request, arrived).await {
        Ok(stream) => {
            let mut response = Response::new(Content::Events(Box::new(stream)));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        }
        Err(status) => {
            let reason = status::reason(&status);
            shared.counts.stream_refused(&reason);
            tracing::info!(%peer, code = ?status.code(), reason, detail = status.message(), "Subscribe refused");
            status.into_http().map(Content::other)
        }
    }
}

async fn begin<B>(
    shared: &Shared,
    Caller { peer, drain }: Caller,
    request: Request<B>,
    arrived: Instant,
) -> Result<EventStream, Status>
where
    B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
{
    let settings = shared.settings.get();
    let deadline = timeout(request.headers())?.and_then(|timeout| arrived.checked_add(timeout));
    let begun = async {
        if drain.is_cancelled() {
            return Err(status::draining(None));
        }
        let compressed = is_compressed(request.headers());
        let read = read_message(request.into_body(), settings.max_request_bytes, compressed);
        let message = tokio::time::timeout(REQUEST_TIMEOUT, read);
        let message = message.await.map_err(|_| status::request_too_slow())??;
        let request = proto::SubscribeRequest::decode(message)
            .map_err(|error| status::malformed(format!("the request is no SubscribeRequest: {error}")))?;
        let request = limits::subscribe(request, &settings, &shared.opt_in)?;

        let id = request.account;
        let subscribe = async {
            let account = shared.hub.lookup(id).await;
            let account = account.map_err(|error| status::lookup_error(&error, id.as_str()))?;
            let subscription = account.subscribe(request.spec.clone()).await;
            subscription.map_err(|error| status::subscribe_error(&error, id.as_str()))
        };
        let subscription = tokio::select! {
            biased;
            () = drain.cancelled() => return Err(status::draining(None)),
            subscription = subscribe => subscription?,
        };
        Ok((request, subscription))
    };
    let (request, subscription) = match deadline {
        // Polled before its timer: what is over already would get through.
        Some(at) if at <= Instant::now() => return Err(status::deadline_exceeded(None)),
        Some(at) => tokio::time::timeout_at(at, begun)
            .await
            .unwrap_or_else(|_| Err(status::deadline_exceeded(None)))?,
        None => begun.await?,
    };

    let consumer = Consumer {
        subscription_id: shared.streams.next_id(),
        account: request.account,
        client_name: request.client_name,
        peer,
        began: shared.clock.now(),
    };
    tracing::info!(
        account = %consumer.account,
        subscription = %consumer.subscription_id,
        client = consumer.client_name,
        %peer,
        bindings = request.spec.bindings.len(),
        position = %subscription.start_position(),
        "stream began",
    );
    let setup = Setup {
        first: subscribed(&subscription, &request.requested, consumer.subscription_id.to_string()),
        consumer,
        requested: request.requested,
        clock: shared.clock.clone(),
        drain: shared.drain.clone(),
        deadline,
        expires: settings.max_stream_age.map(|age| expiry(age, &*shared.random)),
        streams: shared.streams.clone(),
        counts: shared.counts.clone(),
    };
    shared.counts.stream_started(match request.spec.start {
        hub::Start::Live => StreamStart::Live,
        hub::Start::After(_) => StreamStart::Cursor,
        hub::Start::At(_) => StreamStart::Time,
    });
    Ok(EventStream::new(setup, subscription))
}

/// When a stream that begins now reaches its greatest age: not all that began together, after an outage say, end together.
fn expiry(age: Duration, random: &dyn Random) -> Instant {
    Instant::now() + random::between(random, age.mul_f64(0.9), age.mul_f64(1.1))
}

/// The first message.
fn subscribed(subscription: &hub::Subscription, requested: &[(String, String)], id: String) -> Bytes {
    let bindings = message::binding_statuses(requested, &subscription.bindings());
    let position = subscription.start_position();
    let (upstream, since, changed) = subscription.upstream();
    message::response(Kind::Subscribed(proto::Subscribed {
        bindings: bindings.clone(),
        position: Some(message::cursor(position.epoch, position.sequence)),
        replay_window: Some(message::window(&subscription.window())),
        upstream_status: Some(message::upstream_status(
            upstream,
            since,
            message::cursor(changed.epoch, changed.sequence),
            bindings,
        )),
        subscription_id: id,
    }))
}

/// `application/grpc`, or with `+proto`; nothing else is spoken here.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let Some(rest) = content_type.and_then(|text| text.strip_prefix(b"application/grpc")) else {
        return false;
    };
    let rest = rest.strip_prefix(b"+proto").unwrap_or(rest);
    rest.is_empty() || rest.starts_with(b";")
}

/// Whether the client names a compression; a message is compressed only if its flag says so too.
fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get("grpc-encoding").is_some_and(|encoding| encoding != "identity")
}

/// `grpc-timeout`: at most eight digits and a unit. `None` where there is none.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(text) = headers.get("grpc-timeout") else { return Ok(None) };
    let parse = || {
        let (digits, unit) = text.to_str().ok()?.split_at_checked(text.len().checked_sub(1)?)?;
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let count: u64 = digits.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(count * 3600),
            "M" => Duration::from_secs(count * 60),
            "S" => Duration::from_secs(count),
            "m" => Duration::from_millis(count),
            "u" => Duration::from_micros(count),
            "n" => Duration::from_nanos(count),
            _ => return None,
        })
    };
    parse()
        .map(Some)
        .ok_or_else(|| status::malformed("grpc-timeout: at most eight digits and one of H, M, S, m, u, n"))
}

/// Reads the body, which must be one message with gRPC's prefix.
async fn read_message<B>(body: B, max: usize, compressed: bool) -> Result<Bytes, Status>
where
    B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
{
    const PREFIX: usize = 5;
    let mut body = match Limited::new(body, max.saturating_add(PREFIX)).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(status::malformed(format!("the request message has at most {max} bytes")));
        }
        // The connection, or the stream: nobody is there to read this.
        Err(_) => return Err(status::malformed("the request ended early")),
    };
    if body.len() < PREFIX {
        return Err(status::malformed("the request holds no message"));
    }
    let flag = body.get_u8();
    let length = body.get_u32();
    match flag {
        0 => {}
        1 if compressed => return Err(status::compressed()),
        _ => {
            return Err(status::malformed(
                "the message is marked as compressed, but grpc-encoding names nothing",
            ));
        }
    }
    if usize::try_from(length) != Ok(body.len()) {
        return Err(status::malformed("the request holds exactly one message"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::Full;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::*;
    use crate::{
        binding::OptIn,
        clock::SystemClock,
        config,
        grpc::{Server, content::Part, ended::Cause, services::Services},
        ops::drain::Drain,
        random::SystemRandom,
    };

    async fn services() -> Services {
        let epoch = || 1;
        let clock = Arc::new(SystemClock);
        let settings = config::Hub { confirm_wait: Duration::ZERO, ..config::Hub::default() };
        let hub = Arc::new(hub::Hub::new(settings, clock.clone(), epoch));
        let account = ACCOUNT.parse().unwrap();
        hub.add(account, account, Vec::new());
        Services::for_consumers(Server {
            settings: config::Grpc::default().into(),
            hub,
            opt_in: OptIn::default(),
            clock,
            random: Arc::new(SystemRandom),
            drain: Drain::new(config::Shutdown::default()),
            streams: Arc::default(),
            metrics: Arc::default(),
        })
        .await
        .unwrap()
    }

    const ACCOUNT: &str = "account0000000000000000000000002";

    fn call(pairs: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
        let message = proto::SubscribeRequest {
            account_id: ACCOUNT.into(),
            bindings: vec!["call.*.*".into()],
            ..Default::default()
        };
        let mut request = Request::post(PATH).body(Full::new(message::frame(&message))).unwrap();
        *request.headers_mut() = headers(pairs);
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request
    }

    fn caller(drain: &CancellationToken) -> Caller {
        Caller { peer: ([127, 0, 0, 1], 1).into(), drain: drain.clone() }
    }

    /// Before the stream: in the headers of the response, and no body.
    fn refusal(response: &Response<Content>) -> Code {
        assert!(response.body().is_empty());
        Status::from_header_map(response.headers()).expect("a status").code()
    }

    #[tokio::test]
    async fn a_deadline_that_has_passed() {
        let services = services().await;
        let caller = caller(&CancellationToken::new());
        let response = services.call(caller, call(&[("grpc-timeout", "0n")])).await;
        assert_eq!(refusal(&response), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn nothing_begins_while_draining() {
        let services = services().await;
        let drain = CancellationToken::new();
        drain.cancel();
        let response = services.call(caller(&drain), call(&[])).await;
        assert_eq!(refusal(&response), Code::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_send_its_request_is_let_go() {
        let services = services().await;
        let (_sender, body) = tokio::sync::mpsc::channel::<Result<http_body::Frame<Bytes>, Status>>(1);
        let body = http_body_util::StreamBody::new(futures_util::stream::unfold(body, async |mut body| {
            body.recv().await.map(|frame| (frame, body))
        }));
        let request = call(&[]).map(|_| Box::pin(body));
        let response = services.call(caller(&CancellationToken::new()), request).await;
        assert_eq!(refusal(&response), Code::DeadlineExceeded);
    }

    /// Parts as a connection asks for them: the status comes last, once.
    #[tokio::test]
    async fn the_content_ends_with_trailers() {
        let services = services().await;
        let streams = services.streams().clone();
        let response = services.call(caller(&CancellationToken::new()), call(&[])).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
        let mut content = response.into_body();
        assert!(!content.is_empty());
        content.drain();
        let mut kinds = Vec::new();
        loop {
            let part = std::future::poll_fn(|cx| content.poll_part(cx)).await;
            match part.expect("trailers come first") {
                Part::Messages(frames) => {
                    let message = proto::SubscribeResponse::decode(&frames[5..]).unwrap();
                    kinds.push(message.kind.unwrap());
                }
                Part::Trailers(trailers) => {
                    assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Unavailable);
                    break;
                }
            }
        }
        // The gap of the binding that is pending stands at the position that is told: whoever goes away with that knows of it.
        assert!(matches!(kinds[..], [Kind::Subscribed(_), Kind::Gap(_), Kind::Draining(_)]), "{kinds:?}");
        assert!(std::future::poll_fn(|cx| content.poll_part(cx)).await.is_none());
        content.abandon(Cause::ConnectionLost);
        drop(content);
        assert_eq!(streams.count(), 0);
        let ended = streams.ended().newest(10);
        assert_eq!(ended.len(), 1);
        assert_eq!((ended[0].cause, &*ended[0].consumer.subscription_id.to_string()), (Cause::Drained, "s1"));
        assert_eq!(ended[0].bindings, ["call.*.*"]);
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn content_types() {
        for (text, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc+json", false),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(&headers(&[("content-type", text)])), grpc, "{text}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn timeouts() {
        let parse = |text| timeout(&headers(&[("grpc-timeout", text)]));
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999H", Duration::from_secs(359_999_996_400)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(parse(text).unwrap(), Some(expected), "{text}");
        }
        for text in ["", "S", "5", "5s", "-1S", "+1S", "1.5S", "123456789S", "1 S"] {
            assert_eq!(parse(text).unwrap_err().code(), Code::InvalidArgument, "{text}");
        }
    }

    async fn read(body: &[u8], compressed: bool) -> Result<Bytes, Code> {
        let body = Full::new(Bytes::copy_from_slice(body));
        read_message(body, 8, compressed).await.map_err(|status| status.code())
    }

    #[tokio::test]
    async fn messages() {
        assert_eq!(read(b"\0\0\0\0\x02ab", false).await.unwrap(), "ab");
        assert_eq!(read(b"\0\0\0\0\x02ab", true).await.unwrap(), "ab", "the flag decides");
        assert_eq!(read(b"\0\0\0\0\0", false).await.unwrap(), "");
        assert_eq!(read(b"\0\0\0\0\x0812345678", false).await.unwrap(), "12345678");
        assert_eq!(read(b"\x01\0\0\0\x02ab", true).await, Err(Code::Unimplemented));
        for bad in [
            &b""[..],
            b"\0\0\0\0",
            b"\0\0\0\0\x03ab",
            b"\0\0\0\0\x01ab",
            b"\0\0\0\0\x01a\0\0\0\0\x01b",
            b"\0\0\0\0\x09123456789",
            b"\0\xff\xff\xff\xffab",
            b"\x01\0\0\0\x02ab",
            b"\x02\0\0\0\x02ab",
        ] {
            assert_eq!(read(bad, false).await, Err(Code::InvalidArgument), "{bad:?}");
        }
    }
}
