//! The values of labels.

/// A label's value: one of a few words, all of which are known when hawking is built.
pub trait Word: Copy + 'static {
    /// All of them.
    const ALL: &'static [Self];

    /// As it stands in the label.
    fn as_str(self) -> &'static str;
}

/// Declares an enum of words.
macro_rules! words {
    ($(
        $(#[doc = $about:literal])*
        pub enum $name:ident {
            $($(#[doc = $doc:literal])* $word:ident = $text:literal,)*
        }
    )*) => {$(
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[doc = $doc])* $word,)*
        }

        impl Word for $name {
            const ALL: &'static [Self] = &[$(Self::$word),*];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)*
                }
            }
        }
    )*};
}

words! {
    /// What came of an attempt to load the configuration anew.
    pub enum ReloadOutcome {
        /// It is in force.
        Applied = "applied",
        /// It says what was in force already.
        Unchanged = "unchanged",
        /// Something is wrong with it: the one before stays in force.
        Rejected = "rejected",
    }

    /// How an upstream stands.
    pub enum State {
        /// A session is being opened, or its bindings are not confirmed yet.
        Connecting = "connecting",
        /// All that is wanted is held.
        Live = "live",
        /// There is a session, and something that is wanted is not held.
        Degraded = "degraded",
        /// There is no session.
        Down = "down",
    }

    /// What came of an attempt to open a session.
    pub enum AttemptOutcome {
        /// There is a session.
        Connected = "connected",
        /// Crossbar refuses the credentials (400, 401, 403), or knows no such resource (404).
        LoginRefused = "login_refused",
        /// Crossbar's rate limit was hit (429).
        LoginRateLimited = "login_rate_limited",
        /// Crossbar failed (5xx), or answered with something else than was expected.
        LoginFailed = "login_failed",
        /// Crossbar gave no answer in time, or cannot be reached.
        LoginUnreachable = "login_unreachable",
        /// Blackhole refuses the WebSocket (4xx).
        ConnectRefused = "connect_refused",
        /// Blackhole lets no further connection in (429).
        ConnectRateLimited = "connect_rate_limited",
        /// Blackhole cannot be reached, or not in time.
        ConnectUnreachable = "connect_unreachable",
        /// TLS: a certificate that is not accepted, or files that cannot be read.
        ConnectTls = "connect_tls",
        /// What answers is no blackhole, or fails (5xx).
        ConnectFailed = "connect_failed",
    }

    /// How a session ended.
    pub enum SessionEnd {
        /// hawking closed it.
        Asked = "asked",
        /// Blackhole closed it as idle (1000).
        Idle = "idle",
        /// Blackhole found fault with what was sent (1002, 1007).
        Protocol = "protocol",
        /// Blackhole's side of it crashed (1011).
        Crashed = "crashed",
        /// Blackhole closed it with another code.
        Closed = "closed",
        /// The connection ended without a close frame.
        Eof = "eof",
        /// The connection broke.
        Io = "io",
        /// Nothing came for too long.
        Silent = "silent",
        /// The token was not accepted.
        TokenRefused = "token_refused",
        /// A message was too large.
        TooLarge = "too_large",
        /// What came was no WebSocket.
        Garbage = "garbage",
        /// Its task ended: a defect of ours.
        Internal = "internal",
    }

    /// What a command is for.
    pub enum CommandPurpose {
        /// To hold what is missing.
        Bind = "bind",
        /// To ask again for what is held.
        Refresh = "refresh",
        /// To see it answered.
        Mark = "mark",
    }

    /// What came of a command.
    pub enum CommandResult {
        /// It was carried out.
        Done = "done",
        /// It was refused.
        Refused = "refused",
        /// Blackhole's rate limit was hit: it is sent again later.
        RateLimited = "rate_limited",
        /// No answer in time: it is sent again.
        Timeout = "timeout",
    }

    /// Why a session is replaced.
    pub enum RotationTrigger {
        /// An operator asked for it.
        Operator = "operator",
        /// It holds what nobody wants.
        Excess = "excess",
        /// It was refreshed often.
        Refreshes = "refreshes",
        /// It holds bindings of an old month.
        MonthLeftovers = "month_leftovers",
        /// Another session may have died late, and silenced it.
        Ghost = "ghost",
        /// It is old.
        Age = "age",
        /// It is with another upstream than the configuration names now.
        Moved = "moved",
    }

    /// How a replacement of a session came out.
    pub enum RotationEnd {
        /// Another session took over, and everything of the old one was read.
        Drained = "drained",
        /// Another session took over, and the old one may have had more: a gap.
        Gap = "gap",
        /// The old one was closed before there was a new one: a gap.
        Broken = "broken",
        /// There was no new session, or it did not get everything in time: the old one stays.
        Abandoned = "abandoned",
    }

    /// Why an event of upstream is not in a log.
    pub enum Dropped {
        /// It came before.
        Duplicate = "duplicate",
        /// Nobody wants it.
        Unwanted = "unwanted",
        /// It belongs to no account that is served, or its routing key is of no known kind.
        Unattributed = "unattributed",
        /// It cannot be read.
        Unreadable = "unreadable",
    }

    /// Where a stream starts.
    pub enum StreamStart {
        /// With what comes from now on.
        Live = "live",
        /// After a cursor.
        Cursor = "cursor",
        /// At a time.
        Time = "time",
    }

    /// Why a `Subscribe` was refused: `ErrorInfo.reason`, as the contract has it.
    pub enum Refusal {
        /// The request is malformed.
        Request = "INVALID_REQUEST",
        /// A binding is.
        Binding = "INVALID_BINDING",
        /// The filter is.
        Filter = "INVALID_FILTER",
        /// The cursor is, or it is above the newest.
        Cursor = "INVALID_CURSOR",
        /// The start time lies in the future.
        Time = "INVALID_TIME",
        /// The log no longer goes back so far.
        Window = "REPLAY_WINDOW_EXCEEDED",
        /// The cursor is of another log.
        Epoch = "EPOCH_CHANGED",
        /// Nobody serves the account.
        Account = "ACCOUNT_NOT_CONFIGURED",
        /// Its ancestor has not told its descendants yet.
        AccountUnknownYet = "ACCOUNT_NOT_KNOWN_YET",
        /// There are too many streams.
        Limit = "SUBSCRIPTION_LIMIT",
        /// The request is compressed.
        Compression = "COMPRESSION_UNSUPPORTED",
        /// The request did not come in time.
        RequestTimeout = "REQUEST_TIMEOUT",
        /// The client's own deadline passed first.
        Deadline = "DEADLINE_EXCEEDED",
        /// The server drains.
        Draining = "DRAINING",
        /// None of these: a defect.
        Other = "other",
    }

    /// How a consumer's connection ended.
    pub enum ConnectionEnd {
        /// Both sides were done.
        Done = "done",
        /// TLS came to nothing: a client without it, or one that does not trust the certificate or knows no HTTP/2.
        Tls = "tls",
        /// What came first was no HTTP/2.
        Handshake = "handshake",
        /// No HTTP/2 hello in time, or none of TLS before it.
        HelloTimeout = "hello_timeout",
        /// No answer to a ping.
        PingTimeout = "ping_timeout",
        /// A fault in the HTTP/2 of either side, or the client went with an error.
        Http = "http",
        /// The connection broke.
        Io = "io",
        /// It was cut: the grace of a drain was over.
        Cut = "cut",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prometheus takes any text; people and rules want it to look the same everywhere.
    #[test]
    fn words_are_lower_case_and_different() {
        fn check<W: Word>() {
            let words: std::collections::BTreeSet<&str> = W::ALL.iter().map(|word| word.as_str()).collect();
            assert_eq!(words.len(), W::ALL.len());
            assert!(
                words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
            );
        }
        check::<ReloadOutcome>();
        check::<State>();
        check::<AttemptOutcome>();
        check::<SessionEnd>();
        check::<CommandPurpose>();
        check::<CommandResult>();
        check::<RotationTrigger>();
        check::<RotationEnd>();
        check::<Dropped>();
        check::<StreamStart>();
        check::<ConnectionEnd>();
    }
}
