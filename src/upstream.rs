//! The way in: Crossbar, the WebSocket to blackhole, one session, and the loop that keeps one for each account.
