//! As much of Crossbar and blackhole as a gateway needs to begin: everybody may log in, every binding is confirmed.

use std::io::{self, Cursor};

use serde::Deserialize;
use tokio_tungstenite::tungstenite::{
    handshake::derive_accept_key,
    protocol::frame::{
        FrameHeader,
        coding::{Control, Data, OpCode},
    },
};

use super::{Framing, frames::ACCOUNT};

/// Who is at the other end of a connection.
#[derive(Clone, Copy)]
pub enum Role {
    /// Somebody who logs in.
    Crossbar,
    /// A session before its upgrade.
    Upgrade,
    /// After it.
    Session {
        /// It has subscribed.
        live: bool,
    },
    /// Whoever steers the source.
    Control,
    /// Somebody else who gets events.
    Other(Framing),
}

/// Answers the whole requests in `inbox`.
pub fn answer_http(inbox: &mut Vec<u8>, outbox: &mut Vec<u8>) {
    while let Some((head, body)) = split_head(inbox) {
        let length = header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if inbox.len() < body + length {
            return;
        }
        inbox.drain(..body + length);
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (status, json) = match target.trim_start_matches("/v2/") {
            "user_auth" | "api_auth" => (
                "201 Created",
                serde_json::json!({
                    "data": {"account_id": ACCOUNT, "account_name": "bench"},
                    "auth_token": "a-token-that-everybody-gets",
                    "status": "success",
                }),
            ),
            "websockets" => ("200 OK", serde_json::json!({"data": {}, "status": "success"})),
            _ => ("404 Not Found", serde_json::json!({"data": {}, "error": "404", "status": "error"})),
        };
        let json = json.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            json.len()
        );
        outbox.extend_from_slice(head.as_bytes());
        outbox.extend_from_slice(json.as_bytes());
    }
}

/// Upgrades, and answers commands and pings.
///
/// # Errors
///
/// What came is no upgrade, no WebSocket, or no command.
pub fn answer_websocket(role: &mut Role, inbox: &mut Vec<u8>, outbox: &mut Vec<u8>) -> io::Result<()> {
    if let Role::Upgrade = role {
        let Some((head, body)) = split_head(inbox) else { return Ok(()) };
        let key =
            header(&head, "sec-websocket-key").ok_or_else(|| io::Error::other("an upgrade without a key"))?;
        let accept = derive_accept_key(key.as_bytes());
        outbox.extend_from_slice(
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\n\r\n"
            )
            .as_bytes(),
        );
        inbox.drain(..body);
        *role = Role::Session { live: false };
    }
    while let Some((opcode, payload)) = take_frame(inbox)? {
        match opcode {
            OpCode::Data(Data::Text) => {
                let command: Command = serde_json::from_slice(&payload)?;
                append_text(&command.reply(), outbox)?;
                if command.action == "subscribe" {
                    *role = Role::Session { live: true };
                }
            }
            OpCode::Control(Control::Ping) => {
                let header = FrameHeader { opcode: OpCode::Control(Control::Pong), ..FrameHeader::default() };
                header.format(payload.len() as u64, outbox).map_err(io::Error::other)?;
                outbox.extend_from_slice(&payload);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Appends the header of a text frame with a payload of `length` bytes.
///
/// # Errors
///
/// None, in practice: it is written to memory.
pub fn append_frame_header(length: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
    header.format(length as u64, out).map_err(io::Error::other)
}

fn append_text(text: &str, out: &mut Vec<u8>) -> io::Result<()> {
    append_frame_header(text.len(), out)?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Takes a whole frame, unmasked.
fn take_frame(inbox: &mut Vec<u8>) -> io::Result<Option<(OpCode, Vec<u8>)>> {
    let mut cursor = Cursor::new(&inbox[..]);
    let parsed = FrameHeader::parse(&mut cursor).map_err(io::Error::other)?;
    let Some((header, length)) = parsed else { return Ok(None) };
    let start = cursor.position() as usize;
    let length = usize::try_from(length).map_err(io::Error::other)?;
    if inbox.len() < start + length {
        return Ok(None);
    }
    let mut payload = inbox[start..start + length].to_vec();
    inbox.drain(..start + length);
    if let Some(mask) = header.mask {
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    Ok(Some((header.opcode, payload)))
}

/// A command of blackhole's protocol.
#[derive(Deserialize)]
struct Command {
    action: String,
    #[serde(default)]
    request_id: String,
    #[serde(default)]
    data: serde_json::Value,
}

impl Command {
    /// As Kazoo 4 answers: `data.subscribed` lists the binding that was asked for.
    fn reply(&self) -> String {
        let data = match self.action.as_str() {
            "subscribe" => serde_json::json!({"subscribed": [self.data["binding"]]}),
            "ping" => serde_json::json!({"response": "pong"}),
            _ => serde_json::json!({}),
        };
        let reply = serde_json::json!({
            "action": "reply", "request_id": self.request_id, "status": "success", "data": data,
        });
        reply.to_string()
    }
}

/// The head of a request that is there as a whole, and where its body begins.
fn split_head(inbox: &[u8]) -> Option<(String, usize)> {
    let end = inbox.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&inbox[..end]).into_owned(), end + 4))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_gives_a_token() {
        let mut inbox = b"PUT /v2/api_auth HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}GET".to_vec();
        let mut outbox = Vec::new();
        answer_http(&mut inbox, &mut outbox);
        assert_eq!(inbox, b"GET");
        let text = String::from_utf8(outbox).unwrap();
        assert!(text.starts_with("HTTP/1.1 201") && text.contains("auth_token"), "{text}");
    }

    #[test]
    fn a_session_is_live_once_it_has_subscribed() {
        let mut role = Role::Upgrade;
        let mut inbox = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_vec();
        let mut outbox = Vec::new();
        answer_websocket(&mut role, &mut inbox, &mut outbox).unwrap();
        assert!(String::from_utf8(outbox).unwrap().contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455, 1.3");
        assert!(matches!(role, Role::Session { live: false }));

        let command = br#"{"action":"subscribe","request_id":"r","data":{"binding":"call.*.*"}}"#;
        let (opcode, mask) = (OpCode::Data(Data::Text), Some([1, 2, 3, 4]));
        let header = FrameHeader { opcode, mask, ..FrameHeader::default() };
        header.format(command.len() as u64, &mut inbox).unwrap();
        inbox.extend(command.iter().zip([1u8, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
        let mut outbox = Vec::new();
        answer_websocket(&mut role, &mut inbox, &mut outbox).unwrap();
        assert!(matches!(role, Role::Session { live: true }));
        let text = String::from_utf8_lossy(&outbox);
        assert!(text.contains(r#""subscribed":["call.*.*"]"#), "{text}");
        assert!(inbox.is_empty());
    }
}
