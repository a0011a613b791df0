//! Running hawking: what operators and their tools see and do, how it is told to end, and how it does.

pub mod admin;
pub mod drain;
pub mod http;
pub mod reload;
pub mod shutdown;
pub mod watch;
