//! From an account's credentials to an open socket.

use std::sync::Arc;

use tokio_tungstenite::WebSocketStream;
use tracing::debug;
use url::Url;

use crate::config::{self, AccountName, Credentials};

use super::{
    Seams,
    connector::{BoxedIo, ConnectError, Connector},
    crossbar::{AccountFacts, Crossbar, CrossbarError, Token},
};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Crossbar(#[from] CrossbarError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl Failure {
    /// Whether trying again soon is of no use.
    pub fn is_refusal(&self) -> bool {
        match self {
            Failure::Crossbar(error) => error.is_refusal(),
            Failure::Connect(error) => error.is_refusal(),
        }
    }

    /// Whether Crossbar does not want these credentials.
    pub fn is_of_credentials(&self) -> bool {
        let Failure::Crossbar(error) = self else { return false };
        error.is_refusal() && *error != CrossbarError::RateLimited
    }

    /// Whether blackhole lets no further connection in (F5).
    pub fn is_of_numbers(&self) -> bool {
        matches!(self, Failure::Connect(ConnectError::Upgrade(status)) if status.as_u16() == 429)
    }
}

/// Which account of which upstream a session is with. A session with another one is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    crossbar: Url,
    blackhole: Url,
    /// How the account is named to Crossbar; an API key names it by itself.
    name: Option<AccountName>,
}

impl Place {
    fn is_other_than(&self, other: &Self) -> bool {
        let renamed = self.name.is_some() && other.name.is_some() && self.name != other.name;
        renamed || self.crossbar != other.crossbar || self.blackhole != other.blackhole
    }
}

/// The way to one account's upstream.
pub(super) struct Link {
    pub settings: Arc<config::Upstream>,
    pub account: config::Account,
    pub seams: Seams,
    pub crossbar: Crossbar,
    connector: Connector,
    place: Place,
}

/// What came of an attempt.
pub(super) struct Attempt {
    /// A token that is good, if there is one.
    pub token: Option<Arc<Token>>,
    /// Whether it was given out for this attempt.
    pub token_is_fresh: bool,
    /// The account's facts, where they were asked for.
    pub facts: Option<AccountFacts>,
    /// The socket, where one was asked for.
    pub socket: Result<Option<WebSocketStream<BoxedIo>>, Failure>,
}

impl Link {
    pub fn new(settings: Arc<config::Upstream>, account: config::Account, seams: Seams) -> Self {
        let crossbar_url = account.crossbar_url.clone().unwrap_or_else(|| settings.crossbar_url.clone());
        let timeout = settings.crossbar_timeout;
        Self {
            crossbar: Crossbar::new(
                seams.transport.clone(),
                seams.clock.clone(),
                crossbar_url.clone(),
                timeout,
            )
            .behind(seams.gate.clone()),
            connector: Connector::new(seams.dial.clone(), settings.tls.clone(), settings.connect_timeout),
            place: Place {
                crossbar: crossbar_url,
                blackhole: account.blackhole_url.clone().unwrap_or_else(|| settings.blackhole_url.clone()),
                name: match &account.credentials {
                    Credentials::User { realm, .. } | Credentials::Hash { realm, .. } => Some(realm.clone()),
                    Credentials::ApiKey { .. } => None,
                },
            },
            settings,
            account,
            seams,
        }
    }

    /// Whether it leads to another upstream, or to another account there.
    pub fn leads_elsewhere(&self, than: &Self) -> bool {
        self.place.is_other_than(&than.place)
    }

    /// Whether a token that was got by the other is good here.
    pub fn shares_tokens(&self, with: &Self) -> bool {
        !self.leads_elsewhere(with) && self.account.credentials == with.account.credentials
    }

    /// Logs in, unless the token is still good for long, and connects, where that is asked for.
    pub async fn open(self: Arc<Self>, token: Option<Arc<Token>>, facts: bool, connect: bool) -> Attempt {
        let now = self.seams.clock.now();
        let token = token.filter(|token| token.is_good(now, self.settings.token_margin));
        let token_is_fresh = token.is_none();
        let token = match token {
            Some(token) => token,
            None => match self.login().await {
                Ok(token) => Arc::new(token),
                Err(error) => {
                    return Attempt { token: None, token_is_fresh, facts: None, socket: Err(error.into()) };
                }
            },
        };
        let socket = async {
            if !connect {
                return Ok(None);
            }
            let blackhole = &self.place.blackhole;
            let _pass = self.seams.gate.connect(blackhole).await;
            Ok(Some(self.connector.connect(blackhole).await?))
        };
        let (socket, facts) = tokio::join!(socket, self.facts(&token, facts));
        Attempt { token: Some(token), token_is_fresh, facts, socket }
    }

    async fn login(&self) -> Result<Token, CrossbarError> {
        let login = self.crossbar.login(&self.account.credentials).await?;
        if login.account_id.is_some_and(|id| id != self.account.id) {
            debug!("the credentials are those of another account");
        }
        Ok(login.token)
    }

    /// The account's facts. Without its realm presence is attributed less strictly; that is no reason not to connect.
    async fn facts(&self, token: &Token, wanted: bool) -> Option<AccountFacts> {
        if !wanted {
            return None;
        }
        match self.crossbar.account(token, self.account.id).await {
            Ok(facts) => Some(facts),
            Err(error) => {
                debug!(%error, "Crossbar does not tell the account's realm");
                None
            }
        }
    }
}
