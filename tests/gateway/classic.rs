//! What the classic client does (log in, connect, subscribe, receive a document's event), here as gRPC: by every kind of
//! credentials, plain and through TLS.

use std::net::SocketAddr;

use hawking::{
    binding::AccountId,
    config::{self, AccountName, Config, Credentials, HashMethod},
    proto::{self, EventCategory, PayloadFormat, UpstreamState, event::Payload, subscribe_response::Kind},
    sim::{Event, Settings, recorded_accounts},
};
use url::Url;

use super::{
    harness::*,
    metrics::Scrape,
    tls::{Ca, Terminator},
    whole::Whole,
};

const BINDING: &str = "object.doc_created.user";

/// `demo:hawking`, hashed by other means than hawking's.
const MD5: &str = "ba3c4b80d48686f4d7eb728a97d8760e";
const SHA1: &str = "8566621fa4ca3823eeb0f15163852ff209b673ea";

fn id(digit: u8) -> AccountId {
    account_id(&format!("account{:0>24}{digit}", ""))
}

fn account(digit: u8, credentials: Credentials) -> config::Account {
    config::Account {
        id: id(digit),
        crossbar_url: None,
        blackhole_url: None,
        credentials,
        always_on: Vec::new(),
    }
}

fn user(username: &str, method: HashMethod, realm: AccountName) -> Credentials {
    Credentials::User { username: username.into(), password: "hawking".into(), method, realm }
}

fn hash(credentials: &str, method: HashMethod, realm: AccountName) -> Credentials {
    Credentials::Hash { credentials: credentials.into(), method, realm }
}

fn name(text: &str) -> AccountName {
    AccountName::Name(text.into())
}

fn realm(text: &str) -> AccountName {
    AccountName::Realm(text.into())
}

fn number(text: &str) -> AccountName {
    AccountName::PhoneNumber(text.into())
}

async fn with_accounts(accounts: Vec<config::Account>, change: impl FnOnce(&mut Config)) -> Whole {
    Whole::with(Settings::default(), |config| {
        config.accounts = accounts;
        change(config);
    })
    .await
}

/// A consumer of the accounts' new users, which upstream has confirmed.
async fn consumer(whole: &Whole, account: AccountId, format: PayloadFormat) -> Consumer {
    let mut request = proto::SubscribeRequest { account_id: account.to_string(), ..request(&[BINDING]) };
    request.set_payload_format(format);
    whole.subscribe(request).await
}

fn create_user(whole: &Whole, account: AccountId, document: &str) {
    let spec = recorded_accounts().into_iter().find(|spec| spec.id == account).expect("a recorded account");
    whole.publish(&Event::document(&spec, "doc_created", "user", document));
}

/// A new user of the account is published, and comes as it should in two formats.
async fn new_user_arrives(whole: &Whole, account: AccountId, document: &str) {
    let mut json = consumer(whole, account, PayloadFormat::Json).await;
    let mut typed = consumer(whole, account, PayloadFormat::Typed).await;
    create_user(whole, account, document);

    for event in [json.event().await, typed.event().await] {
        assert_eq!(event.account_id, account.as_str());
        assert_eq!((event.name.as_str(), event.category()), ("doc_created", EventCategory::Object));
        assert_eq!(event.matched_bindings, [BINDING]);
        let database = format!("account%2Fac%2Fco%2F{}", &account.as_str()[4..]);
        assert_eq!(event.routing_key, format!("doc_created.{database}.user.{document}"));
        match event.payload.expect("a payload") {
            Payload::JsonPayload(text) => {
                let sent = whole.sent().pop().expect("blackhole sent it").data;
                assert_eq!(text, sent, "byte for byte");
            }
            Payload::Object(object) => {
                assert_eq!((object.id.as_str(), object.r#type.as_str()), (document, "user"));
                assert_eq!(object.account_id, account.as_str());
                assert_eq!(
                    (object.event_category.as_str(), object.event_name.as_str()),
                    ("configuration", "doc_created")
                );
                assert_eq!(object.is_soft_deleted, Some(false));
                assert!(!object.msg_id.is_empty() && object.msg_id == event.message_id);
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn status(whole: &Whole, account: AccountId) -> proto::UpstreamStatus {
    let request = proto::GetAccountStatusRequest { account_id: account.to_string() };
    let answer =
        whole.client().await.get_account_status(request).await.expect("it is configured").into_inner();
    answer.upstream_status.expect("always there")
}

#[tokio::test]
async fn every_kind_of_credentials_leads_to_the_event() {
    use HashMethod::{Md5, Sha};
    let rounds = [
        [
            account(1, user("demo", Md5, name("master"))),
            account(2, user("DeMo", Sha, realm("wefwefwefwef.2600hz.com"))),
            account(3, user("DEMO", Md5, number("+15550000003"))),
            account(4, Credentials::ApiKey { key: "apikey-acct4".into() }),
        ],
        [
            account(1, hash(SHA1, Sha, number("+15550000001"))),
            account(2, hash(MD5, Md5, name("wefwefwefwef"))),
            account(3, hash(&MD5.to_uppercase(), Md5, realm("acct3.2600hz.com"))),
            account(4, user("demo", Sha, name("ACCT 4"))),
        ],
    ];
    for accounts in rounds {
        let whole = with_accounts(accounts.into(), |_| {}).await;
        for digit in 1..=4 {
            new_user_arrives(&whole, id(digit), &format!("user-of-{digit}")).await;
        }
        assert_eq!(whole.sim.connections_total(), 4, "one session for each account");
        whole.stop().await;
    }
}

#[tokio::test]
async fn credentials_that_are_wrong_are_said_to_be() {
    let wrong = Credentials::User {
        username: "demo".into(),
        password: "kingfisher".into(),
        method: HashMethod::Sha,
        realm: name("acct3"),
    };
    let good = Credentials::ApiKey { key: "apikey-acct2".into() };
    let whole = with_accounts(vec![account(2, good), account(3, wrong)], |_| {}).await;
    new_user_arrives(&whole, id(2), "u").await;
    eventually("the refusal is known", async || status(&whole, id(3)).await.state() == UpstreamState::Down)
        .await;
    let detail = status(&whole, id(3)).await.detail;
    assert!(detail.starts_with("Crossbar refuses the credentials (401)"), "{detail}");
    assert_eq!(whole.sim.connections_total(), 1, "no session without a login");
}

/// How often each of these accounts has tried to get a session, in vain or not.
async fn attempts(whole: &Whole, accounts: &[AccountId]) -> Vec<f64> {
    let scrape = Scrape::of(whole).await;
    let of = |account: &AccountId| {
        let labels = format!("hawking_upstream_attempts_total{{account=\"{account}\",");
        scrape.sum(&labels)
    };
    accounts.iter().map(of).collect()
}

/// Crossbar and blackhole, each behind a terminator.
struct Secured {
    crossbar: Terminator,
    blackhole: Terminator,
}

fn addr(url: &Url) -> SocketAddr {
    url.socket_addrs(|| None).expect("an address")[0]
}

impl Secured {
    fn before(config: &Config, ca: &Ca, names: &[&str]) -> Self {
        Self {
            crossbar: Terminator::start(ca, names, addr(&config.upstream.crossbar_url)),
            blackhole: Terminator::start(ca, names, addr(&config.upstream.blackhole_url)),
        }
    }

    fn crossbar_url(&self) -> Url {
        Url::parse(&format!("https://{}/", self.crossbar.addr)).expect("a URL")
    }

    fn blackhole_url(&self) -> Url {
        Url::parse(&format!("wss://{}/", self.blackhole.addr)).expect("a URL")
    }
}

#[tokio::test]
async fn through_tls_by_a_private_ca_and_by_another_name() {
    let ca = Ca::new("a private CA");
    for (server_name, only_ca_file) in
        [(None, true), (None, false), (Some("kazoo.example.com"), true), (Some("kazoo.example.com"), false)]
    {
        // The certificate holds what it has to, and no more.
        let names = [server_name.unwrap_or("127.0.0.1")];
        let mut secured = None;
        let credentials = user("demo", HashMethod::Sha, realm("wefwefwefwef.2600hz.com"));
        let whole = with_accounts(vec![account(2, credentials)], |config| {
            let before = Secured::before(config, &ca, &names);
            let upstream = &mut config.upstream;
            (upstream.crossbar_url, upstream.blackhole_url) = (before.crossbar_url(), before.blackhole_url());
            let server_name = server_name.map(str::to_owned);
            upstream.tls = config::UpstreamTls { ca_file: Some(ca.file()), only_ca_file, server_name };
            secured = Some(before);
        })
        .await;
        new_user_arrives(&whole, id(2), "through-tls").await;

        let Secured { crossbar, blackhole } = secured.expect("set above");
        // An address is never sent as SNI (RFC 6066, 3).
        let seen = [server_name.map(str::to_owned)];
        assert_eq!(blackhole.seen(), seen, "one session, and it came this way");
        assert!(!crossbar.seen().is_empty() && crossbar.seen().iter().all(|name| *name == seen[0]));
        whole.stop().await;
    }
}

#[tokio::test]
async fn one_account_without_the_ca_is_down_and_no_other_suffers() {
    let (ca, other) = (Ca::new("a private CA"), Ca::new("another private CA"));
    let trusted = tempfile::NamedTempFile::new().expect("a file");
    other.write(trusted.path());
    let api_key = |digit: u8| Credentials::ApiKey { key: format!("apikey-acct{digit}").into() };
    let mut secured = None;
    let accounts = vec![account(2, api_key(2)), account(3, api_key(3)), account(4, api_key(4))];
    let whole = with_accounts(accounts, |config| {
        let before = Secured::before(config, &ca, &["127.0.0.1"]);
        // One stumbles at the login, one at the session.
        config.accounts[1].crossbar_url = Some(before.crossbar_url());
        config.accounts[2].blackhole_url = Some(before.blackhole_url());
        config.upstream.tls.ca_file = Some(trusted.path().to_owned());
        secured = Some(before);
    })
    .await;
    let secured = secured.expect("set above");

    let mut neighbour = consumer(&whole, id(2), PayloadFormat::Json).await;
    create_user(&whole, id(2), "first");
    neighbour.event().await;
    let untrusted = "invalid peer certificate: UnknownIssuer";
    for (digit, says) in [(3, "Crossbar"), (4, "blackhole")] {
        eventually("it is down", async || status(&whole, id(digit)).await.state() == UpstreamState::Down)
            .await;
        let detail = status(&whole, id(digit)).await.detail;
        assert!(detail.contains(says) && detail.contains(untrusted), "{detail}");
        // A consumer of it is not turned away, but told.
        let request = proto::SubscribeRequest { account_id: id(digit).to_string(), ..request(&[BINDING]) };
        let told = Consumer::begin(&mut whole.client().await, request).await.expect("it is configured");
        let told = told.subscribed.upstream_status.expect("always there");
        assert_eq!(told.state(), UpstreamState::Down, "{told:?}");
    }
    assert_eq!(
        (secured.crossbar.seen().len(), secured.blackhole.seen().len()),
        (0, 0),
        "nothing got through"
    );

    // Several attempts later the neighbour still has its first session, and has missed nothing.
    let begun = attempts(&whole, &[id(3), id(4)]).await;
    eventually("each has tried three times more", async || {
        let now = attempts(&whole, &[id(3), id(4)]).await;
        now.iter().zip(&begun).all(|(now, begun)| *now >= begun + 3.0)
    })
    .await;
    create_user(&whole, id(2), "second");
    let messages = neighbour.until(|kind| matches!(kind, Kind::Event(_))).await;
    let others: Vec<_> =
        messages.iter().filter(|kind| !matches!(kind, Kind::Event(_) | Kind::Heartbeat(_))).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(status(&whole, id(2)).await.state(), UpstreamState::Live);
    assert_eq!(whole.sim.connections_total(), 1);

    // Once the right CA is in the file, both come up by themselves.
    ca.write(trusted.path());
    for digit in [3, 4] {
        new_user_arrives(&whole, id(digit), "at-last").await;
    }
    whole.stop().await;
}
