//! WebSocket at the level of frames: what R22 shows for frames that break the protocol, and for closes.

use hawking::sim::{Settings, Simulator};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::wire::PATIENCE;

const MASK: [u8; 4] = [1, 2, 3, 4];

/// A masked frame: the first byte as it is, a short payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Sends bytes behind an upgrade, and returns all frames that come until TCP ends.
async fn answer(sim: &Simulator, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let url = sim.blackhole_url();
    let mut stream = TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    // In one go: what stands behind the upgrade must not be lost.
    stream.write_all(&[upgrade.as_bytes(), bytes].concat()).await.unwrap();
    let mut all = Vec::new();
    // A reset instead of an end shows as an error (F11: always FIN).
    timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("an end").unwrap();
    let head = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let mut frames = Vec::new();
    let mut rest = &all[head..];
    while let [first, length, tail @ ..] = rest {
        let (length, tail) = match length {
            126 => (usize::from(u16::from_be_bytes([tail[0], tail[1]])), &tail[2..]),
            length => (usize::from(*length), tail),
        };
        frames.push((*first, tail[..length].to_vec()));
        rest = &tail[length..];
    }
    frames
}

#[tokio::test]
async fn broken_frames_and_closes_are_answered_with_their_code() {
    let sim = Simulator::start(Settings::default()).await.unwrap();
    let close = |code: u16| Some(code.to_be_bytes().to_vec());
    let close_frame = |code: u16| frame(0x88, &code.to_be_bytes());
    let mut unmasked = vec![0x81, 2];
    unmasked.extend(b"{}");
    for (what, bytes, answered) in [
        ("unmasked client frame", unmasked, close(1002)),
        ("rsv1 bit set", frame(0xc1, b"{}"), close(1002)),
        ("reserved opcode 3", frame(0x83, b""), close(1002)),
        ("fragmented ping", frame(0x09, b""), close(1002)),
        ("ping >125 bytes", frame(0x89, &[b'x'; 126]), close(1002)),
        ("invalid utf-8 text", frame(0x81, &[0xff, 0xfe]), close(1007)),
        ("continuation without start", frame(0x80, b"x"), close(1002)),
        ("close 1000", close_frame(1000), close(1000)),
        ("close without code", frame(0x88, b""), Some(Vec::new())),
        ("close with invalid code 1005", close_frame(1005), close(1002)),
        ("close 4001", close_frame(4001), close(4001)),
    ] {
        let mut frames = answer(&sim, &bytes).await;
        // The WebSocket library explains an invalid code in words; blackhole gives no reason.
        frames.iter_mut().for_each(|(_, payload)| payload.truncate(2));
        assert_eq!(frames, Vec::from_iter(answered.map(|payload| (0x88, payload))), "{what}");
    }
    sim.shutdown().await;
}

#[tokio::test]
async fn a_fragmented_text_is_one_message() {
    let sim = Simulator::start(Settings::default()).await.unwrap();
    let parts = [
        frame(0x01, br#"{"action":"noop","#),
        frame(0x00, br#""auth_token":"tok-acct2","#),
        frame(0x80, br#""request_id":"fr1"}"#),
        frame(0x88, &1000u16.to_be_bytes()),
    ];
    let frames = answer(&sim, &parts.concat()).await;
    let reply = br#"{"action":"reply","request_id":"fr1","status":"success","data":{}}"#;
    assert_eq!(frames[0], (0x81, reply.to_vec()));
    assert_eq!(frames.len(), 2);
    sim.shutdown().await;
}
