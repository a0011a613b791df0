//! The part of Kazoo's REST API that hawking needs: login, the account's facts, the catalogue.

mod token;
mod transport;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use md5::{Digest, Md5};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha1::Sha1;
use url::Url;

use crate::{
    binding::AccountId,
    clock::SharedClock,
    config::{AccountName, Credentials, HashMethod},
    hub::{Facts, Listing},
};

use super::gate::Gate;

pub use token::Token;
pub use transport::{MAX_RESPONSE_BYTES, ReqwestTransport, Transport, TransportError};

/// A client of one Crossbar.
pub struct Crossbar {
    transport: Arc<dyn Transport>,
    clock: SharedClock,
    base: Url,
    timeout: Duration,
    gate: Option<Arc<Gate>>,
}

/// What a login gives.
#[derive(Debug)]
pub struct Login {
    /// For all further requests, and for blackhole.
    pub token: Token,
    /// The account that the credentials belong to.
    pub account_id: Option<AccountId>,
}

/// What hawking wants to know about an account.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AccountFacts {
    /// For people.
    #[serde(default)]
    pub name: String,
    /// Presence events name an account by it alone.
    pub realm: String,
}

/// What Crossbar tells of the accounts below one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descendants {
    /// Each with its name, its realm and what stands above it.
    pub listing: Listing,
    /// Whether these are all.
    pub is_complete: bool,
}

/// One page of a listing: all of it, unless Crossbar insists on pages.
#[derive(Deserialize)]
struct DescendantsAnswer {
    data: Vec<DescendantEntry>,
    #[serde(default)]
    next_start_key: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct DescendantEntry {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    realm: Option<String>,
    #[serde(default)]
    tree: Vec<String>,
}

/// Pages taken of one listing at most.
const MAX_PAGES: usize = 1000;

/// The catalogue: module -> templates (`call.CHANNEL_CREATE.{CALL_ID}`). Configuration, so it differs between clusters.
pub type Catalogue = BTreeMap<String, Vec<String>>;

/// Why a request to Crossbar failed. Texts are our own: nothing that Crossbar wrote is in them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrossbarError {
    /// 401
    #[error("Crossbar refuses the credentials (401)")]
    Unauthorized,
    /// 403
    #[error("Crossbar does not allow the request (403)")]
    Forbidden,
    /// 400
    #[error("Crossbar finds fault with the request (400)")]
    BadRequest,
    /// 404
    #[error("Crossbar does not know the resource (404): is crossbar_url right?")]
    NotFound,
    /// 429
    #[error("Crossbar's rate limit is hit (429)")]
    RateLimited,
    /// 5xx
    #[error("Crossbar fails with HTTP status {}", .0.as_u16())]
    Server(StatusCode),
    /// Anything else than 2xx; redirects too: credentials are not sent to where an answer points.
    #[error("Crossbar answers with the unexpected HTTP status {}", .0.as_u16())]
    Unexpected(StatusCode),
    /// 2xx, but no JSON, or JSON that lacks what was asked for.
    #[error("Crossbar answers with something that is not the expected JSON")]
    NotJson,
    /// 2xx and JSON, but no token in it.
    #[error("Crossbar's answer to the login holds no token")]
    NoToken,
    /// No answer in time.
    #[error("no answer from Crossbar within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The URL cannot be used as a base.
    #[error("crossbar_url must be http://host or https://host")]
    Url,
    /// The request did not get there, or the answer did not get back.
    #[error("Crossbar cannot be reached: {0}")]
    Transport(#[from] TransportError),
}

impl CrossbarError {
    /// Whether trying again soon makes it worse: Crossbar understood and said no.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            CrossbarError::Unauthorized
                | CrossbarError::Forbidden
                | CrossbarError::BadRequest
                | CrossbarError::NotFound
                | CrossbarError::RateLimited
                | CrossbarError::Url
        )
    }

    fn from_status(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => CrossbarError::BadRequest,
            401 => CrossbarError::Unauthorized,
            403 => CrossbarError::Forbidden,
            404 => CrossbarError::NotFound,
            429 => CrossbarError::RateLimited,
            500..=599 => CrossbarError::Server(status),
            _ => CrossbarError::Unexpected(status),
        }
    }
}

/// `{"data": ...}`, as all requests and answers have it.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    data: T,
}

/// A login's body. It holds secrets: no `Debug`.
#[derive(Serialize)]
#[serde(untagged)]
enum LoginBody<'a> {
    User {
        credentials: &'a str,
        method: &'static str,
        #[serde(flatten)]
        account: BTreeMap<&'static str, &'a str>,
    },
    ApiKey {
        api_key: &'a str,
    },
}

/// A login's answer: the token stands beside `data`.
#[derive(Deserialize)]
struct LoginAnswer {
    auth_token: Option<String>,
    #[serde(default)]
    data: LoginData,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LoginData {
    account_id: Option<String>,
}

impl Crossbar {
    /// A client. `timeout` bounds each request.
    pub fn new(transport: Arc<dyn Transport>, clock: SharedClock, base: Url, timeout: Duration) -> Self {
        Self { transport, clock, base, timeout, gate: None }
    }

    /// Lets each request wait at a gate first. That is not counted towards the request's timeout.
    pub fn behind(mut self, gate: Arc<Gate>) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Logs in.
    ///
    /// # Errors
    ///
    /// See [`CrossbarError`].
    pub async fn login(&self, credentials: &Credentials) -> Result<Login, CrossbarError> {
        let (path, body) = login_request(credentials);
        let answer: LoginAnswer = self.request(Method::PUT, &[path], None, Some(body)).await?;
        let token = answer.auth_token.filter(|token| !token.is_empty()).ok_or(CrossbarError::NoToken)?;
        Ok(Login {
            token: Token::new(token, self.clock.now()),
            account_id: answer.data.account_id.and_then(|id| id.parse().ok()),
        })
    }

    /// The facts of an account.
    ///
    /// # Errors
    ///
    /// See [`CrossbarError`].
    pub async fn account(&self, token: &Token, id: AccountId) -> Result<AccountFacts, CrossbarError> {
        let path = ["accounts", id.as_str()];
        let answer: Envelope<AccountFacts> = self.request(Method::GET, &path, Some(token), None).await?;
        Ok(answer.data)
    }

    /// All accounts below one. Crossbar pages its listings by fifty unless it is asked not to.
    ///
    /// # Errors
    ///
    /// See [`CrossbarError`].
    pub async fn descendants(&self, token: &Token, id: AccountId) -> Result<Descendants, CrossbarError> {
        let path = ["accounts", id.as_str(), "descendants"];
        let mut descendants = Descendants::default();
        let mut start_key: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let paging = match &start_key {
                Some(key) => ("start_key", key.as_str()),
                None => ("paginate", "false"),
            };
            let answer: DescendantsAnswer =
                self.request_with(Method::GET, &path, &[paging], Some(token), None).await?;
            let known = descendants.listing.len();
            descendants.listing.extend(answer.data.into_iter().filter_map(DescendantEntry::read));
            match answer.next_start_key {
                None | Some(serde_json::Value::Null) => {
                    descendants.is_complete = true;
                    break;
                }
                // A page that brings nothing new is the same one again.
                Some(serde_json::Value::String(key)) if descendants.listing.len() > known => {
                    start_key = Some(key);
                }
                Some(_) => break,
            }
        }
        descendants.listing.remove(&id);
        Ok(descendants)
    }

    /// What blackhole's modules of this cluster offer. Needs no token.
    ///
    /// # Errors
    ///
    /// See [`CrossbarError`].
    pub async fn catalogue(&self) -> Result<Catalogue, CrossbarError> {
        let answer: Envelope<Catalogue> = self.request(Method::GET, &["websockets"], None, None).await?;
        Ok(answer.data)
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        token: Option<&Token>,
        body: Option<Bytes>,
    ) -> Result<T, CrossbarError> {
        self.request_with(method, path, &[], token, body).await
    }

    async fn request_with<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        token: Option<&Token>,
        body: Option<Bytes>,
    ) -> Result<T, CrossbarError> {
        let mut url = self.base.clone();
        url.path_segments_mut().map_err(|()| CrossbarError::Url)?.pop_if_empty().push("v2").extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }

        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("hawking/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = token {
            let mut value =
                http::HeaderValue::from_str(token.expose()).map_err(|_| CrossbarError::NoToken)?;
            value.set_sensitive(true);
            request = request.header("x-auth-token", value);
        }
        let request = request.body(body.unwrap_or_default()).map_err(|_| CrossbarError::Url)?;

        let _pass = match &self.gate {
            // A request without a token is one for a token, or for what anybody may know.
            Some(gate) if token.is_none() => Some(gate.login(&self.base).await),
            Some(gate) => Some(gate.read(&self.base).await),
            None => None,
        };
        let response = tokio::time::timeout(self.timeout, self.transport.send(request))
            .await
            .map_err(|_| CrossbarError::Timeout(self.timeout))??;
        if !response.status().is_success() {
            return Err(CrossbarError::from_status(response.status()));
        }
        serde_json::from_slice(response.body()).map_err(|_| CrossbarError::NotJson)
    }
}

impl DescendantEntry {
    /// `None` where the id is none: such an account cannot be asked for.
    fn read(self) -> Option<(AccountId, Facts)> {
        let facts = Facts {
            name: self.name.unwrap_or_default().into(),
            realm: self.realm.unwrap_or_default().into(),
            above: self.tree.iter().filter_map(|id| id.parse().ok()).collect(),
        };
        Some((self.id.parse().ok()?, facts))
    }
}

/// The path and the body of a login.
fn login_request(credentials: &Credentials) -> (&'static str, Bytes) {
    let hashed: SecretString;
    let (path, body) = match credentials {
        Credentials::User { username, password, method, realm } => {
            hashed = hash(username, password, *method);
            ("user_auth", user_body(&hashed, *method, realm))
        }
        Credentials::Hash { credentials, method, realm } => {
            ("user_auth", user_body(credentials, *method, realm))
        }
        Credentials::ApiKey { key } => ("api_auth", LoginBody::ApiKey { api_key: key.expose_secret() }),
    };
    // Strings alone: serialising them into memory cannot fail.
    #[allow(clippy::expect_used)]
    let body = serde_json::to_vec(&Envelope { data: body }).expect("a login is plain strings");
    (path, body.into())
}

fn user_body<'a>(
    credentials: &'a SecretString,
    method: HashMethod,
    account: &'a AccountName,
) -> LoginBody<'a> {
    let account = match account {
        AccountName::Name(name) => ("account_name", name),
        AccountName::Realm(realm) => ("account_realm", realm),
        AccountName::PhoneNumber(number) => ("phone_number", number),
    };
    LoginBody::User {
        credentials: credentials.expose_secret(),
        method: match method {
            HashMethod::Md5 => "md5",
            HashMethod::Sha => "sha",
        },
        account: BTreeMap::from([(account.0, account.1.as_str())]),
    }
}

/// The hash of `username:password`, the user name lower-cased, in hex.
fn hash(username: &str, password: &SecretString, method: HashMethod) -> SecretString {
    let plain = SecretString::from(format!("{}:{}", username.to_lowercase(), password.expose_secret()));
    let plain = plain.expose_secret().as_bytes();
    match method {
        HashMethod::Md5 => hex::encode(Md5::digest(plain)),
        HashMethod::Sha => hex::encode(Sha1::digest(plain)),
    }
    .into()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::VecDeque, time::SystemTime};

    use futures_util::future::BoxFuture;
    use http::Response;
    use parking_lot::Mutex;

    use crate::clock::TokioClock;

    use super::*;

    /// Answers from a list and remembers what was asked.
    #[derive(Default)]
    pub(crate) struct FakeTransport {
        pub answers: Mutex<VecDeque<Result<(u16, String), TransportError>>>,
        pub requests: Mutex<Vec<(String, String)>>,
        pub tokens: Mutex<Vec<Option<String>>>,
    }

    impl FakeTransport {
        pub(crate) fn answering(
            answers: impl IntoIterator<Item = Result<(u16, String), TransportError>>,
        ) -> Arc<Self> {
            Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() })
        }
    }

    impl Transport for FakeTransport {
        fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
            let line = format!("{} {}", request.method(), request.uri());
            let token = request.headers().get("x-auth-token").map(|v| v.to_str().unwrap().to_owned());
            self.tokens.lock().push(token);
            let body = String::from_utf8(request.body().to_vec()).unwrap();
            self.requests.lock().push((line, body));
            let answer = self.answers.lock().pop_front();
            Box::pin(async move {
                // Without an answer: silence.
                let Some(answer) = answer else { return std::future::pending().await };
                let (status, body) = answer?;
                Ok(Response::builder().status(status).body(body.into()).unwrap())
            })
        }
    }

    fn crossbar(transport: &Arc<FakeTransport>) -> Crossbar {
        let clock = TokioClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let base = Url::parse("http://crossbar:8000/").unwrap();
        Crossbar::new(transport.clone(), Arc::new(clock), base, Duration::from_secs(10))
    }

    fn user(method: HashMethod, realm: AccountName) -> Credentials {
        Credentials::User { username: "Alice".into(), password: "Secret".into(), method, realm }
    }

    const LOGIN: &str = r#"{"data":{"account_id":"account0000000000000000000000002","account_name":"x"},"auth_token":"opaque","status":"success"}"#;

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_login_is_sent_as_crossbar_wants_it() {
        for (credentials, line, body) in [
            (
                user(HashMethod::Md5, AccountName::Name("acme".into())),
                "PUT http://crossbar:8000/v2/user_auth",
                // md5 of "alice:Secret"
                r#"{"data":{"credentials":"ba608857527f0f6750cf5dc36c09df06","method":"md5","account_name":"acme"}}"#,
            ),
            (
                user(HashMethod::Sha, AccountName::Realm("acme.example.com".into())),
                "PUT http://crossbar:8000/v2/user_auth",
                // sha1 of "alice:Secret"
                r#"{"data":{"credentials":"d382a582a16d6f51869956c1177525b5187416fc","method":"sha","account_realm":"acme.example.com"}}"#,
            ),
            (
                Credentials::Hash {
                    credentials: "a98ec90ac2c0091835fee943b71a9138".into(),
                    method: HashMethod::Md5,
                    realm: AccountName::PhoneNumber("+15551234567".into()),
                },
                "PUT http://crossbar:8000/v2/user_auth",
                r#"{"data":{"credentials":"a98ec90ac2c0091835fee943b71a9138","method":"md5","phone_number":"+15551234567"}}"#,
            ),
            (
                Credentials::ApiKey { key: "key".into() },
                "PUT http://crossbar:8000/v2/api_auth",
                r#"{"data":{"api_key":"key"}}"#,
            ),
        ] {
            let transport = FakeTransport::answering([Ok((201, LOGIN.into()))]);
            let login = crossbar(&transport).login(&credentials).await.unwrap();
            assert_eq!(login.account_id, "account0000000000000000000000002".parse().ok());
            assert_eq!(login.token.expose(), "opaque");
            assert_eq!(*transport.requests.lock(), [(line.to_owned(), body.to_owned())]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_base_with_a_path_is_kept() {
        let transport = FakeTransport::answering([Ok((200, r#"{"data":{"call":["call.*.*"]}}"#.into()))]);
        let mut crossbar = crossbar(&transport);
        crossbar.base = Url::parse("http://gateway/kazoo/").unwrap();
        let catalogue = crossbar.catalogue().await.unwrap();
        assert_eq!(catalogue["call"], ["call.*.*"]);
        assert_eq!(transport.requests.lock()[0].0, "GET http://gateway/kazoo/v2/websockets");
    }

    #[tokio::test(start_paused = true)]
    async fn the_facts_of_an_account_are_asked_for_with_the_token() {
        let facts = r#"{"data":{"id":"x","name":"acme","realm":"acme.example.com","extra":{}}}"#;
        let transport = FakeTransport::answering([Ok((201, LOGIN.into())), Ok((200, facts.into()))]);
        let crossbar = crossbar(&transport);
        let login = crossbar.login(&Credentials::ApiKey { key: "key".into() }).await.unwrap();
        let facts = crossbar.account(&login.token, login.account_id.unwrap()).await.unwrap();
        assert_eq!(facts, AccountFacts { name: "acme".into(), realm: "acme.example.com".into() });
        assert_eq!(*transport.tokens.lock(), [None, Some("opaque".into())]);
        assert_eq!(
            transport.requests.lock()[1].0,
            "GET http://crossbar:8000/v2/accounts/account0000000000000000000000002"
        );
    }

    fn entry(digit: u8, tree: &[u8]) -> String {
        let id = |digit: &u8| format!("account000000000000000000000000{digit}");
        let tree: Vec<String> = tree.iter().map(id).collect();
        serde_json::json!({
            "id": id(&digit), "name": format!("n{digit}"), "realm": format!("R{digit}.example"), "tree": tree,
        })
        .to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn descendants_are_listed_whole_even_where_crossbar_pages() {
        let odd = r#"{"id":"no account id","realm":7}"#;
        let page = |entries: &[String], next: &str| {
            Ok((200, format!(r#"{{"data":[{}]{next}}}"#, entries.join(","))))
        };
        let transport = FakeTransport::answering([
            Ok((201, LOGIN.into())),
            page(&[entry(2, &[1]), entry(3, &[1, 2])], r#","next_start_key":"a b""#),
            page(&[entry(4, &[]), r#"{"id":"x"}"#.to_owned()], r#","next_start_key":null"#),
            page(&[entry(3, &[])], r#","next_start_key":["k"]"#),
            page(&[odd.to_owned()], ""),
        ]);
        let crossbar = crossbar(&transport);
        let token = crossbar.login(&Credentials::ApiKey { key: "key".into() }).await.unwrap().token;
        let id = |digit: u8| format!("account000000000000000000000000{digit}").parse::<AccountId>().unwrap();

        let all = crossbar.descendants(&token, id(2)).await.unwrap();
        assert!(all.is_complete);
        let facts = &all.listing[&id(3)];
        assert_eq!(
            (&*facts.name, &*facts.realm, &facts.above[..]),
            ("n3", "R3.example", &[id(1), id(2)][..])
        );
        assert_eq!(all.listing.keys().copied().collect::<Vec<_>>(), [id(3), id(4)], "without itself");
        assert!(!crossbar.descendants(&token, id(2)).await.unwrap().is_complete, "a key we cannot follow");
        assert_eq!(crossbar.descendants(&token, id(2)).await, Err(CrossbarError::NotJson));

        let lines: Vec<String> = transport.requests.lock().iter().map(|(line, _)| line.clone()).collect();
        let path = "GET http://crossbar:8000/v2/accounts/account0000000000000000000000002/descendants";
        assert_eq!(lines[1..3], [format!("{path}?paginate=false"), format!("{path}?start_key=a+b")]);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_told_apart_and_carry_nothing_of_the_answer() {
        let echo = r#"{"data":{"message":"invalid SECRET"},"error":"401","message":"SECRET"}"#;
        for (answer, expected, refusal) in [
            (Ok((401, echo)), CrossbarError::Unauthorized, true),
            (Ok((403, echo)), CrossbarError::Forbidden, true),
            (Ok((400, echo)), CrossbarError::BadRequest, true),
            (Ok((404, "SECRET")), CrossbarError::NotFound, true),
            (Ok((429, "")), CrossbarError::RateLimited, true),
            (Ok((503, "<html>SECRET")), CrossbarError::Server(StatusCode::SERVICE_UNAVAILABLE), false),
            (Ok((302, "")), CrossbarError::Unexpected(StatusCode::FOUND), false),
            (Ok((200, "<html>SECRET")), CrossbarError::NotJson, false),
            (Ok((200, "{\"data\":{}}")), CrossbarError::NoToken, false),
            (Ok((200, "{\"data\":{},\"auth_token\":\"\"}")), CrossbarError::NoToken, false),
            (Err(TransportError::Connect), CrossbarError::Transport(TransportError::Connect), false),
        ] {
            let transport =
                FakeTransport::answering([answer.map(|(status, body)| (status, body.to_owned()))]);
            let credentials = Credentials::ApiKey { key: "SECRET".into() };
            let error = crossbar(&transport).login(&credentials).await.unwrap_err();
            assert_eq!(error, expected);
            assert_eq!(error.is_refusal(), refusal, "{error}");
            assert!(!format!("{error} {error:?}").contains("SECRET"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_a_timeout() {
        let transport = FakeTransport::answering([]);
        let error = crossbar(&transport).login(&Credentials::ApiKey { key: "key".into() }).await.unwrap_err();
        assert_eq!(error, CrossbarError::Timeout(Duration::from_secs(10)));
    }
}
