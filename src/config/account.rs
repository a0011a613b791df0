//! The accounts that hawking has credentials for, and how it logs in.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    error::Problem,
    form::{BLACKHOLE, CROSSBAR, Choice, Form, Optional, Parsed, Text, Texts},
    reader::{Reader, Session},
    settings::{Settings, Visitor},
    tree::Node,
};
use crate::binding::{AccountId, Binding, OptIn};

/// One account with credentials.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its own Crossbar.
    pub crossbar_url: Option<Url>,
    /// Its own blackhole.
    pub blackhole_url: Option<Url>,
    /// How it logs in.
    pub credentials: Credentials,
    /// Bindings that are held whether anybody subscribes or not, so that they can be replayed.
    pub always_on: Vec<Binding>,
}

/// How hawking logs in to Crossbar.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// `PUT /v2/user_auth` with the hash of `username:password`.
    User {
        /// Lower-cased before hashing.
        username: String,
        /// Kept secret.
        password: SecretString,
        /// Which hash.
        method: HashMethod,
        /// How the account is named to Crossbar.
        realm: AccountName,
    },
    /// `PUT /v2/user_auth` with a hash made beforehand.
    Hash {
        /// Hex digits; as good as a password.
        credentials: SecretString,
        /// Which hash.
        method: HashMethod,
        /// How the account is named to Crossbar.
        realm: AccountName,
    },
    /// `PUT /v2/api_auth`.
    ApiKey {
        /// Kept secret.
        key: SecretString,
    },
}

impl PartialEq for Credentials {
    /// Whether they are the same, secrets included. The time that it takes depends on them: both sides must be the
    /// operator's.
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &SecretString, b: &SecretString| a.expose_secret() == b.expose_secret();
        match (self, other) {
            (
                Self::User { username, password, method, realm },
                Self::User { username: username2, password: password2, method: method2, realm: realm2 },
            ) => username == username2 && same(password, password2) && method == method2 && realm == realm2,
            (
                Self::Hash { credentials, method, realm },
                Self::Hash { credentials: credentials2, method: method2, realm: realm2 },
            ) => same(credentials, credentials2) && method == method2 && realm == realm2,
            (Self::ApiKey { key }, Self::ApiKey { key: key2 }) => same(key, key2),
            _ => false,
        }
    }
}

/// Crossbar's `method`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HashMethod {
    /// `md5`, the default.
    #[default]
    Md5,
    /// `sha`: SHA-1.
    Sha,
}

/// How an account is named at login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountName {
    /// `account_name`
    Name(String),
    /// `account_realm`
    Realm(String),
    /// `phone_number`
    PhoneNumber(String),
}

/// What an account is in a file: one flat section, from which [`Account`] is made when it is complete.
#[derive(Default)]
pub(super) struct Draft {
    id: Option<AccountId>,
    crossbar_url: Option<Url>,
    blackhole_url: Option<Url>,
    username: Option<String>,
    password: Option<SecretString>,
    credentials_hash: Option<SecretString>,
    hash_method: HashMethod,
    account_name: Option<String>,
    account_realm: Option<String>,
    phone_number: Option<String>,
    api_key: Option<SecretString>,
    always_on: Vec<String>,
}

const ID: Optional<Parsed<AccountId>> = Optional(Parsed {
    expected: "the account's id, 32 letters and digits in quotes",
    example: "00112233445566778899aabbccddeeff",
    parse: |text| text.parse().ok(),
    show: AccountId::to_string,
});

const METHOD: Choice<HashMethod> = Choice(&[("md5", HashMethod::Md5), ("sha", HashMethod::Sha)]);

impl Settings for Draft {
    /// Nothing of an account is fixed: its loop takes all of it up.
    fn keep_fixed(&mut self, _running: &Self) {}

    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let text = |what, example| Optional(Text { what, example });
        visitor.setting("id", &["The account's id. Always needed."], &mut self.id, &ID);
        visitor.setting(
            "crossbar_url",
            &["Its own Crossbar, instead of upstream.crossbar_url."],
            &mut self.crossbar_url,
            &Optional(CROSSBAR),
        );
        visitor.setting(
            "blackhole_url",
            &["Its own blackhole, instead of upstream.blackhole_url."],
            &mut self.blackhole_url,
            &Optional(BLACKHOLE),
        );
        visitor.setting(
            "username",
            &["First way to log in: a user's name and password."],
            &mut self.username,
            &text("a user's name", "hawking"),
        );
        visitor.secret("password", &["Goes with username."], &mut self.password);
        visitor.secret(
            "credentials_hash",
            &["Second way to log in: the hash of \"username:password\", in hexadecimal. As good as the password."],
            &mut self.credentials_hash,
        );
        visitor.setting(
            "hash_method",
            &["How the password is hashed, or the hash was made. \"sha\" is SHA-1."],
            &mut self.hash_method,
            &METHOD,
        );
        visitor.setting(
            "account_name",
            &["How Crossbar is told the account of the user: by exactly one of account_name, account_realm and", "phone_number."],
            &mut self.account_name,
            &text("an account's name", "example"),
        );
        visitor.setting(
            "account_realm",
            &["See account_name."],
            &mut self.account_realm,
            &text("an account's realm", "example.sip.example.com"),
        );
        visitor.setting(
            "phone_number",
            &["See account_name."],
            &mut self.phone_number,
            &text("a phone number of the account", "+15555550100"),
        );
        visitor.secret(
            "api_key",
            &["Third way to log in: the account's API key, without a user."],
            &mut self.api_key,
        );
        visitor.setting(
            "always_on",
            &["Bindings that are held whether anybody subscribes or not, so that they can be replayed. Separated by", "commas in a variable."],
            &mut self.always_on,
            &Texts { what: "bindings such as \"call.*.*\"", example: "call.*.*" },
        );
    }
}

impl From<&Account> for Draft {
    fn from(account: &Account) -> Self {
        let mut draft = Self {
            id: Some(account.id),
            crossbar_url: account.crossbar_url.clone(),
            blackhole_url: account.blackhole_url.clone(),
            always_on: account.always_on.iter().map(|binding| binding.as_str().to_owned()).collect(),
            ..Self::default()
        };
        let (method, realm) = match account.credentials.clone() {
            Credentials::User { username, password, method, realm } => {
                draft.username = Some(username);
                draft.password = Some(password);
                (method, realm)
            }
            Credentials::Hash { credentials, method, realm } => {
                draft.credentials_hash = Some(credentials);
                (method, realm)
            }
            Credentials::ApiKey { key } => {
                draft.api_key = Some(key);
                return draft;
            }
        };
        draft.hash_method = method;
        match realm {
            AccountName::Name(name) => draft.account_name = Some(name),
            AccountName::Realm(realm) => draft.account_realm = Some(realm),
            AccountName::PhoneNumber(number) => draft.phone_number = Some(number),
        }
        draft
    }
}

/// Reads the account at `path`, such as `accounts[0]`. `None` where something is wrong with it, which the session then
/// knows. `seen` are the accounts before it, by id.
pub(super) fn read(
    session: &mut Session<'_>,
    path: &str,
    node: &Node,
    opt_in: &OptIn,
    seen: &mut BTreeMap<AccountId, String>,
) -> Option<Account> {
    let before = session.errors.len();
    let mut account = None;
    Reader::open(session, path, Some(node), |reader| {
        let mut draft = Draft::default();
        draft.visit(reader);

        if draft.id.is_none() && !reader.mentions("id") {
            missing(reader, node, "id", &ID.expected());
        }
        if let Some(id) = draft.id
            && let Some(first) = seen.insert(id, path.to_owned())
        {
            conflict(reader, node, "id", format!("{id} is also {first}; expected each account once"));
        }
        let credentials = credentials(reader, node, &draft);
        let always_on = bindings(reader, &draft.always_on, opt_in);
        if let (Some(id), Some(credentials)) = (draft.id, credentials) {
            let (crossbar_url, blackhole_url) = (draft.crossbar_url, draft.blackhole_url);
            account = Some(Account { id, crossbar_url, blackhole_url, credentials, always_on });
        }
    });
    account.filter(|_| session.errors.len() == before)
}

fn missing(reader: &mut Reader<'_, '_>, node: &Node, key: &str, expected: &str) {
    let key = reader.key(key);
    reader.session().fail(node.place.clone(), key, Problem::Missing { expected: expected.to_owned() });
}

fn conflict(reader: &mut Reader<'_, '_>, node: &Node, key: &str, reason: String) {
    let place = reader.place_of(key).unwrap_or(&node.place).clone();
    let key = reader.key(key);
    reader.session().fail(place, key, Problem::Conflict { reason });
}

/// Exactly one way to log in, complete. What is set but was refused counts as there, so that it is reported once.
fn credentials(reader: &mut Reader<'_, '_>, node: &Node, draft: &Draft) -> Option<Credentials> {
    const WAYS: &str = "exactly one way to log in: username and password, credentials_hash, or api_key";

    let user = reader.mentions("username") || reader.mentions("password");
    let (hash, api_key) = (reader.mentions("credentials_hash"), reader.mentions("api_key"));
    let mut ways = Vec::new();
    for (set, name) in [(user, "username and password"), (hash, "credentials_hash"), (api_key, "api_key")] {
        if set {
            ways.push(name);
        }
    }
    match ways[..] {
        [] => {
            missing(reader, node, "username", WAYS);
            return None;
        }
        [_] => {}
        _ => {
            let reason = format!("{} are set; expected {WAYS}", ways.join(" and "));
            conflict(reader, node, ways[1], reason);
            return None;
        }
    }

    let named = ["account_name", "account_realm", "phone_number"].map(|key| (key, reader.mentions(key)));
    let named: Vec<&str> = named.into_iter().filter(|(_, set)| *set).map(|(key, _)| key).collect();
    if api_key {
        if let Some(key) = named.first() {
            conflict(
                reader,
                node,
                key,
                "is not used with api_key, which names its account; expected without it".to_owned(),
            );
        }
        return Some(Credentials::ApiKey { key: draft.api_key.clone()? });
    }

    match named[..] {
        [] => missing(
            reader,
            node,
            "account_realm",
            "exactly one of account_name, account_realm and phone_number",
        ),
        [_] => {}
        [first, ..] => {
            conflict(reader, node, first, format!("{} are set; expected exactly one", named.join(" and ")))
        }
    }
    if user {
        for key in ["username", "password"] {
            if !reader.mentions(key) {
                missing(reader, node, key, "username and password together");
            }
        }
    }
    let name = draft.account_name.clone().map(AccountName::Name);
    let realm = draft.account_realm.clone().map(AccountName::Realm);
    let number = draft.phone_number.clone().map(AccountName::PhoneNumber);
    let (method, realm) = (draft.hash_method, name.or(realm).or(number)?);
    if user {
        let (username, password) = (draft.username.clone()?, draft.password.clone()?);
        return Some(Credentials::User { username, password, method, realm });
    }
    let credentials = draft.credentials_hash.clone()?;
    if !credentials.expose_secret().chars().all(|c| c.is_ascii_hexdigit()) {
        let problem = Problem::Unexpected {
            found: "a text with other characters than hexadecimal digits (not shown)".to_owned(),
            expected: "the hash of username:password in hexadecimal".to_owned(),
        };
        let place = reader.place_of("credentials_hash").unwrap_or(&node.place).clone();
        let key = reader.key("credentials_hash");
        reader.session().fail(place, key, problem);
        return None;
    }
    Some(Credentials::Hash { credentials, method, realm })
}

/// The bindings that are held always, each once.
fn bindings(reader: &mut Reader<'_, '_>, texts: &[String], opt_in: &OptIn) -> Vec<Binding> {
    let mut bindings: Vec<Binding> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match Binding::parse(text, opt_in) {
            Ok(binding) if bindings.contains(&binding) => {}
            Ok(binding) => bindings.push(binding),
            Err(error) => {
                let place = reader.take("always_on").map(|node| node.place.clone());
                let key = reader.key(&format!("always_on[{index}]"));
                let found = super::tree::shorten(text);
                let problem = Problem::Refused { found, reason: error.to_string() };
                let session = reader.session();
                let place = place.unwrap_or_else(|| session.home.clone());
                session.fail(place, key, problem);
            }
        }
    }
    bindings
}
