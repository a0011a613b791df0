//! The listener for consumers.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    form::{Address, FilePath, Optional, Parsed, bytes, count, span, timeout},
    reader::Checks,
    settings::settings,
};

settings! {
    /// The listener for consumers.
    pub struct Grpc {
        /// Where it listens. In a container: `0.0.0.0:50051` or `[::]:50051`.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 50051)), as Address, fixed;
        /// The heartbeat of a stream that asks for none.
        heartbeat_default: Duration = Duration::from_secs(15), as HEARTBEAT;
        /// The shortest that can be asked for. Who asks for less gets this one, without being told; a client that takes a
        /// stream for dead after some intervals that it asked for would do so with every quiet one.
        heartbeat_min: Duration = Duration::from_secs(1), as HEARTBEAT;
        /// The longest.
        heartbeat_max: Duration = Duration::from_secs(600), as HEARTBEAT;
        /// After so much quiet a connection gets an HTTP/2 ping.
        keepalive_interval: Duration = Duration::from_secs(30), as timeout();
        /// A connection that does not answer one within this is closed.
        keepalive_timeout: Duration = Duration::from_secs(20), as timeout();
        /// Streams for each connection at most.
        max_concurrent_streams: u32 = 1000, as count(1, 1_000_000);
        /// A stream of this age, give or take a tenth at random, is ended with UNAVAILABLE, and its consumer resumes at once:
        /// on another replica where its client balances by itself. Not set: streams live for ever.
        max_stream_age: Option<Duration> = None, as Optional(span(Duration::from_secs(1), Duration::from_hours(31 * 24)));
        /// Connections at most.
        max_connections: usize = 10_000, as count(1, 1_000_000);
        /// The largest request message.
        max_request_bytes: usize = 2 << 20, as bytes(4 << 10, 64 << 20), fixed;
        /// Unsent bytes of one stream that are held at most.
        send_buffer_bytes: usize = 128 << 10, as bytes(16 << 10, 64 << 20);
        /// A stream that has something to send, and a consumer that takes nothing of it for so long, is reset; others on its
        /// connection go on.
        stall_timeout: Duration = Duration::from_secs(30), as timeout();
        /// The handshakes of a new connection, TLS where it is on and HTTP/2, must be over within this.
        handshake_timeout: Duration = Duration::from_secs(10), as timeout();
        /// The congestion control of consumers' connections, by the kernel's name for it. Where the system does not have it, or
        /// does not allow it to this user, that is logged, and its default stays. Not set: the system's default.
        tcp_congestion: Option<String> = None, as Optional(CONGESTION), fixed;
    }
    sections {
        /// TLS for consumers, HTTP/2 by ALPN. On where both files are set; both are read once, at the start. The listener for
        /// operators (admin.grpc_listen) never has it.
        tls: GrpcTls;
    }
}

settings! {
    /// TLS for consumers.
    pub struct GrpcTls {
        /// A PEM file: the server's certificate, and after it those between it and the authority that consumers trust.
        certificate_file: Option<PathBuf> = None, as Optional(FilePath { example: "/run/secrets/hawking-tls/tls.crt" }), fixed;
        /// A PEM file: the private key of the certificate, not encrypted.
        key_file: Option<PathBuf> = None, as Optional(FilePath { example: "/run/secrets/hawking-tls/tls.key" }), fixed;
    }
}

/// Linux takes names of up to 15 bytes (`TCP_CA_NAME_MAX`, with a zero byte).
const CONGESTION: Parsed<String> = Parsed {
    expected: "the name of a congestion control in quotes, up to 15 letters, digits, - or _",
    example: "bbr",
    parse: |text| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        ((1..=15).contains(&text.len()) && text.bytes().all(plain)).then(|| text.to_owned())
    },
    show: String::clone,
};

impl GrpcTls {
    /// Whether consumers are served over TLS.
    pub fn is_on(&self) -> bool {
        self.certificate_file.is_some() && self.key_file.is_some()
    }
}

const HEARTBEAT: super::form::Span = span(Duration::from_millis(10), Duration::from_hours(1));

impl Grpc {
    pub(super) fn check(&self, checks: &mut Checks<'_, '_>) {
        checks.ordered(
            ("grpc.heartbeat_min", self.heartbeat_min),
            ("grpc.heartbeat_default", self.heartbeat_default),
        );
        checks.ordered(
            ("grpc.heartbeat_default", self.heartbeat_default),
            ("grpc.heartbeat_max", self.heartbeat_max),
        );
        let tls = &self.tls;
        if tls.certificate_file.is_some() != tls.key_file.is_some() {
            let (set, missing) =
                if tls.key_file.is_some() { ("key", "certificate") } else { ("certificate", "key") };
            checks.fail(&["grpc.tls.certificate_file", "grpc.tls.key_file"], || {
                format!("{set}_file needs a {missing}_file: TLS takes a certificate and its key")
            });
        }
    }
}
