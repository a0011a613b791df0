//! What every gateway has to do with a frame: read it off the socket, take the envelope apart without copying the payload,
//! find in the payload what identifies the event, make of it what consumers get.

use std::{borrow::Cow, net::SocketAddr, time::SystemTime};

use anyhow::{Context, Result, bail};
use futures_util::{FutureExt, SinkExt, StreamExt};
use hawking::proto::{Cursor, Event, EventCategory, SubscribeResponse, event, subscribe_response::Kind};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::source::frames::{ACCOUNT, BINDING};

/// A subscribed session.
pub struct Frames {
    socket: WebSocketStream<TcpStream>,
    sequence: u64,
}

/// Logs in nowhere (the source does not mind), connects and subscribes.
pub async fn connect(upstream: SocketAddr) -> Result<Frames> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{upstream}/"), stream).await?;
    let command = serde_json::json!({
        "action": "subscribe", "auth_token": "any", "request_id": "1",
        "data": {"account_id": ACCOUNT, "binding": BINDING},
    });
    socket.send(Message::text(command.to_string())).await?;
    let reply = socket.next().await.context("the source hung up")??;
    if !reply.to_text()?.contains("\"success\"") {
        bail!("the source does not confirm: {reply}");
    }
    Ok(Frames { socket, sequence: 0 })
}

impl Frames {
    /// Waits for frames and hands over all that are there, one by one, then returns.
    pub async fn batch(&mut self, mut take: impl FnMut(SubscribeResponse)) -> Result<()> {
        let mut message = self.socket.next().await;
        loop {
            match message.context("the source has ended")?? {
                Message::Text(text) => {
                    self.sequence += 1;
                    take(response(text.as_str(), self.sequence)?);
                }
                Message::Close(_) => bail!("the source has ended"),
                _ => {}
            }
            match self.socket.next().now_or_never() {
                Some(next) => message = next,
                None => return Ok(()),
            }
        }
    }
}

/// The envelope. `Cow`, since a text with an escape in it cannot be borrowed.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    routing_key: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// What is read in the payload.
#[derive(Deserialize)]
struct Facts<'a> {
    #[serde(borrow)]
    msg_id: Cow<'a, str>,
    #[serde(borrow)]
    call_id: Cow<'a, str>,
    timestamp: i64,
}

/// Seconds from the year 0, where Kazoo's times begin, to 1970.
const GREGORIAN_OFFSET: i64 = 62_167_219_200;

fn response(frame: &str, sequence: u64) -> Result<SubscribeResponse> {
    let envelope: Envelope<'_> = serde_json::from_str(frame)?;
    let data = envelope.data.get();
    let facts: Facts<'_> = serde_json::from_str(data)?;
    let seconds = facts.timestamp - GREGORIAN_OFFSET;
    let event = Event {
        cursor: Some(Cursor { epoch: "00000000000000aa".to_owned(), sequence }),
        account_id: ACCOUNT.to_owned(),
        name: envelope.name.into_owned(),
        category: EventCategory::Call.into(),
        routing_key: envelope.routing_key.into_owned(),
        message_id: facts.msg_id.into_owned(),
        call_id: facts.call_id.into_owned(),
        receive_time: Some(SystemTime::now().into()),
        event_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        matched_bindings: vec![BINDING.to_owned()],
        payload: Some(event::Payload::JsonPayload(data.to_owned())),
    };
    Ok(SubscribeResponse { kind: Some(Kind::Event(event)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_the_source_is_read() {
        let frames = crate::source::frames::Frames::new();
        let mut text = Vec::new();
        frames.append(5, 9, &mut text);
        let response = response(std::str::from_utf8(&text).unwrap(), 1).unwrap();
        let Some(Kind::Event(event)) = response.kind else { panic!("no event") };
        assert_eq!(
            (event.message_id.as_str(), event.call_id.as_str()),
            (&*format!("{:020}", 5), frames.call_id(5))
        );
        let payload = event::Payload::JsonPayload(String::from_utf8(frames.data(5, 9)).unwrap());
        assert_eq!(event.payload, Some(payload));
    }
}
