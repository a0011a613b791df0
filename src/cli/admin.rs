//! `hawking admin`: what an operator sees of a running gateway, and does to it. A client of `AdminService`.

use std::{
    error::Error as _,
    io::{self, Write},
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::{
    Failure,
    tail::{parse_duration, parse_server},
    terminal::{self, Palette},
};
use crate::{
    binding::AccountId,
    client,
    proto::{self, ServingState, admin_service_client::AdminServiceClient},
};

mod json;
mod show;
mod table;

const LONG_ABOUT: &str = "\
Looks into a running gateway, and steers it, over its admin listener (`admin.grpc_listen`): who reads from it and how far \
behind they are, which sessions it has to Kazoo and what they hold, which streams ended and why.

The listener is on loopback unless configured otherwise, so run this where the gateway runs: in Kubernetes with \
`kubectl exec deploy/hawking -- hawking admin ...`, or through `kubectl port-forward deploy/hawking 50052`.";

const EXAMPLES: &str = "\
Examples:
  hawking admin info
  hawking admin sessions
  hawking admin subscribers --account 1a2b...
  hawking admin subscribers --json | jq -r '.subscribers[] | select((.lag|tonumber) > 1000) | .subscriptionId'
  hawking admin ended --limit 20
  hawking admin disconnect s42
  hawking admin rotate 1a2b...
  hawking admin drain --wait 60s

Exit codes:
  0  done
  1  it failed: nobody answers there, or the gateway cannot do it now
  2  the command line is wrong, or the gateway says that the request is: an
     unknown account, a stream that is not open";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No verb takes anywhere near so long.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A thousand accounts with a thousand bindings each are some 100 MB.
const MAX_MESSAGE: usize = 256 << 20;
/// How often `drain --wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Look into a running gateway, and steer it
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The gateway's admin listener
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        env = "HAWKING_ADMIN_ADDRESS",
        default_value = "127.0.0.1:50052",
        value_parser = parse_server
    )]
    admin_address: String,
    /// Print the answer as one JSON document, for scripts: protobuf's JSON form, with every field
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what the gateway is, and how it fares
    Info,
    /// Show the sessions to Kazoo: how they stand, and how much they hold and brought
    Sessions {
        /// Only this account's
        #[arg(value_name = "ACCOUNT")]
        account: Option<AccountId>,
    },
    /// Show what the sessions hold: each binding, its state, and since when it is confirmed
    Bindings {
        /// Only this account's
        #[arg(value_name = "ACCOUNT")]
        account: Option<AccountId>,
    },
    /// Show the open streams: who reads them, and how far behind they are
    Subscribers {
        /// Only this account's
        #[arg(long, value_name = "ACCOUNT")]
        account: Option<AccountId>,
    },
    /// Show the streams that ended lately, and why; the newest first
    Ended {
        /// So many at most
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=1000))]
        limit: i32,
    },
    /// End one stream: its client is told where to resume, as in a drain
    Disconnect {
        /// The stream's id, such as s42: `subscribers` shows it
        #[arg(value_name = "ID")]
        subscription: String,
    },
    /// Close an account's session and open it again; its consumers are told of a gap
    Reconnect {
        /// The configured account
        #[arg(value_name = "ACCOUNT")]
        account: AccountId,
    },
    /// Replace an account's session by a new one, without a gap where the upstream allows it
    Rotate {
        /// The configured account
        #[arg(value_name = "ACCOUNT")]
        account: AccountId,
    },
    /// End all streams as SIGTERM would, without the exit; there is no way back but a restart
    Drain {
        /// How long streams may take to end, instead of what is configured
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        deadline: Option<Duration>,
        /// Wait until the drain is over, for so long at most; exit with 1 if it is not. Then no consumer is connected, and none
        /// is let in any more. It begins to end streams after `shutdown.endpoint_wait` only
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        wait: Option<Duration>,
    },
}

/// Runs the command.
pub(super) async fn command(arguments: Arguments) -> Result<(), Failure> {
    let mut gateway = Gateway::connect(&arguments.admin_address).await?;
    let answer = gateway.ask(&arguments.verb).await.map_err(failure)?;
    let text = match arguments.json {
        true => json::document(&answer).map_err(Failure::runtime)?,
        false => {
            let screen = show::Screen { palette: Palette::of(&io::stdout()), now: SystemTime::now() };
            screen.answer(&arguments.verb, &answer)
        }
    };
    terminal::ignore_closed_pipe(io::stdout().write_all(text.as_bytes())).map_err(Failure::runtime)?;
    if let Verb::Drain { wait: Some(wait), .. } = arguments.verb {
        gateway.wait_until_drained(wait).await?;
        if !arguments.json {
            let over = "The drain is over: no consumer is connected, and none is let in any more.\n";
            terminal::ignore_closed_pipe(io::stdout().write_all(over.as_bytes()))
                .map_err(Failure::runtime)?;
        }
    }
    Ok(())
}

/// What came back.
#[derive(Debug)]
enum Answer {
    Info(proto::GetServerInfoResponse),
    Sessions(proto::ListUpstreamSessionsResponse),
    Subscribers(proto::ListSubscribersResponse),
    Ended(proto::ListEndedStreamsResponse),
    Disconnect(proto::DisconnectSubscriberResponse),
    Reconnect(proto::ReconnectUpstreamResponse),
    Rotate(proto::RotateUpstreamResponse),
    Drain(proto::DrainResponse),
}

/// The gateway's admin listener.
struct Gateway(AdminServiceClient<Channel>);

impl Gateway {
    async fn connect(address: &str) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(Failure::usage)?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT);
        let endpoint = endpoint
            .user_agent(concat!("hawking-admin/", env!("CARGO_PKG_VERSION")))
            .map_err(Failure::runtime)?;
        let channel = endpoint.connect().await.map_err(|error| {
            let cause = client::innermost(&error);
            Failure::runtime(format_args!(
                "no gateway's admin listener at {address}: {cause} (--admin-address says where it is)"
            ))
        })?;
        Ok(Self(AdminServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE)))
    }

    async fn ask(&mut self, verb: &Verb) -> Result<Answer, Status> {
        let Self(client) = self;
        let only = |account: &Option<AccountId>| account.map(|id| id.to_string()).unwrap_or_default();
        Ok(match verb {
            Verb::Info => {
                Answer::Info(client.get_server_info(proto::GetServerInfoRequest {}).await?.into_inner())
            }
            Verb::Sessions { account } | Verb::Bindings { account } => {
                let request = proto::ListUpstreamSessionsRequest { account_id: only(account) };
                Answer::Sessions(client.list_upstream_sessions(request).await?.into_inner())
            }
            Verb::Subscribers { account } => Answer::Subscribers(self.subscribers(only(account)).await?),
            Verb::Ended { limit } => {
                let request = proto::ListEndedStreamsRequest { limit: *limit };
                Answer::Ended(client.list_ended_streams(request).await?.into_inner())
            }
            Verb::Disconnect { subscription } => {
                let request = proto::DisconnectSubscriberRequest { subscription_id: subscription.clone() };
                Answer::Disconnect(client.disconnect_subscriber(request).await?.into_inner())
            }
            Verb::Reconnect { account } => {
                let request = proto::ReconnectUpstreamRequest { account_id: account.to_string() };
                Answer::Reconnect(client.reconnect_upstream(request).await?.into_inner())
            }
            Verb::Rotate { account } => {
                let request = proto::RotateUpstreamRequest { account_id: account.to_string() };
                Answer::Rotate(client.rotate_upstream(request).await?.into_inner())
            }
            Verb::Drain { deadline, .. } => {
                let deadline = deadline.map(prost_types::Duration::try_from).transpose();
                let deadline = deadline.map_err(|_| Status::invalid_argument("the deadline is too long"))?;
                Answer::Drain(client.drain(proto::DrainRequest { deadline }).await?.into_inner())
            }
        })
    }

    /// All of them, page by page.
    async fn subscribers(&mut self, account_id: String) -> Result<proto::ListSubscribersResponse, Status> {
        let mut all = proto::ListSubscribersResponse::default();
        let mut request = proto::ListSubscribersRequest { account_id, ..Default::default() };
        loop {
            let page = self.0.list_subscribers(request.clone()).await?.into_inner();
            all.subscribers.extend(page.subscribers);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
    }

    async fn wait_until_drained(&mut self, wait: Duration) -> Result<(), Failure> {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let Self(client) = self;
            let info = client.get_server_info(proto::GetServerInfoRequest {}).await.map_err(failure)?;
            let info = info.into_inner();
            let (state, left) = (info.serving_state(), info.subscriptions);
            match state {
                ServingState::Drained => return Ok(()),
                // A gateway of before that does not say it.
                ServingState::Unspecified if left == 0 => return Ok(()),
                _ => {}
            }
            if tokio::time::Instant::now() >= until {
                let wait = humantime::format_duration(wait);
                let why = match state {
                    ServingState::Leaving => "streams are let in still: `shutdown.endpoint_wait` is not over",
                    _ => "",
                };
                let left = format!("the drain is not over after {wait}: {left} streams are open");
                return Err(Failure::runtime(if why.is_empty() {
                    left
                } else {
                    format!("{left}, and {why}")
                }));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn failure(status: Status) -> Failure {
    let what = client::describe(&status);
    let elsewhere =
        |what| Failure::Runtime(format!("{what} (is this the admin listener? consumers have another)"));
    match status.code() {
        Code::InvalidArgument | Code::NotFound => Failure::Usage(what),
        Code::Unimplemented => elsewhere(what),
        _ => match status.source() {
            // No answer of a server's: what is there may speak something else.
            Some(cause) => elsewhere(client::innermost(cause)),
            None => Failure::Runtime(what),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let parse = |line: &[&str]| Line::try_parse_from(["admin"].iter().chain(line));
        for right in [
            &["info"][..],
            &["--json", "sessions"],
            &["ended", "--limit", "1000", "--json"],
            &["drain", "--wait", "1m", "--admin-address", "[::1]:1"],
        ] {
            assert!(parse(right).is_ok(), "{right:?}");
        }
        for wrong in [
            &[][..],
            &["everything"],
            &["sessions", "short"],
            &["rotate"],
            &["disconnect"],
            &["ended", "--limit", "0"],
            &["ended", "--limit", "1001"],
            &["drain", "--wait", "soon"],
            &["info", "--admin-address", "https://x:1"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
