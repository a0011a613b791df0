//! The accounts of the simulated cluster: their tree, their credentials, and the tokens handed out for them.

use std::{collections::HashMap, fmt::Write as _, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use md5::{Digest as _, Md5};
use secrecy::{ExposeSecret as _, SecretString};
use sha1::Sha1;

use crate::{binding::AccountId, random::Random};

/// One account.
#[derive(Debug, Clone)]
pub struct AccountSpec {
    /// Its id.
    pub id: AccountId,
    /// Its name, as `account_name` at login gives it.
    pub name: String,
    /// Its SIP realm: presence names an account by this alone.
    pub realm: String,
    /// The account above it. The one without is the cluster's master.
    pub parent: Option<AccountId>,
    /// Whether it may ask for the events of account `*`.
    pub superduper_admin: bool,
    /// Who can log in with a password.
    pub users: Vec<UserSpec>,
    /// API keys that log in.
    pub api_keys: Vec<SecretString>,
    /// Numbers that find the account at login, in E.164.
    pub phone_numbers: Vec<String>,
    /// Tokens that are always good, beside those that a login hands out.
    pub tokens: Vec<SecretString>,
}

/// A user with a password.
#[derive(Debug, Clone)]
pub struct UserSpec {
    /// The user name; compared in lower case.
    pub username: String,
    /// The password.
    pub password: SecretString,
}

impl AccountSpec {
    /// An account with nothing but its place in the tree.
    pub fn new(id: AccountId, name: &str, realm: &str, parent: Option<AccountId>) -> Self {
        Self {
            id,
            name: name.into(),
            realm: realm.into(),
            parent,
            superduper_admin: false,
            users: Vec::new(),
            api_keys: Vec::new(),
            phone_numbers: Vec::new(),
            tokens: Vec::new(),
        }
    }

    /// Adds a user.
    pub fn with_user(mut self, username: &str, password: &str) -> Self {
        self.users.push(UserSpec { username: username.into(), password: password.into() });
        self
    }

    /// Adds an API key.
    pub fn with_api_key(mut self, key: &str) -> Self {
        self.api_keys.push(key.into());
        self
    }

    /// Adds a phone number.
    pub fn with_phone_number(mut self, number: &str) -> Self {
        self.phone_numbers.push(number.into());
        self
    }

    /// Adds a token that is always good.
    pub fn with_token(mut self, token: &str) -> Self {
        self.tokens.push(token.into());
        self
    }
}

/// The four accounts of the recordings: a master, two below it, and one below the second. Each has the token that the
/// recordings use, an API key, and a user `demo` with the password `hawking`.
pub fn recorded_accounts() -> Vec<AccountSpec> {
    // Constants of 32 letters and digits.
    #[allow(clippy::expect_used)]
    let id = |digit: u8| -> AccountId {
        format!("account{:0>24}{digit}", "").parse().expect("a constant account id")
    };
    let account = |digit, name, realm, parent: Option<u8>, token, key| {
        AccountSpec::new(id(digit), name, realm, parent.map(id))
            .with_user("demo", "hawking")
            .with_api_key(key)
            .with_phone_number(&format!("+1555000000{digit}"))
            .with_token(token)
    };
    let mut master = account(1, "master", "master.2600hz.com", None, "tok-master", "apikey-master");
    master.superduper_admin = true;
    vec![
        master,
        account(2, "wefwefwefwef", "wefwefwefwef.2600hz.com", Some(1), "tok-acct2", "apikey-acct2"),
        account(3, "acct3", "acct3.2600hz.com", Some(1), "tok-acct3", "apikey-acct3"),
        account(4, "acct4", "acct4.2600hz.com", Some(2), "tok-acct4", "apikey-acct4"),
    ]
}

/// How an account is named at login.
#[derive(Debug, Clone, Copy)]
pub(super) enum Named<'a> {
    Name(&'a str),
    Realm(&'a str),
    PhoneNumber(&'a str),
}

/// The hash in `credentials`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HashMethod {
    Md5,
    Sha,
}

/// The accounts, and the tokens handed out so far.
pub(super) struct Accounts {
    specs: Vec<AccountSpec>,
    issued: HashMap<String, (AccountId, SystemTime)>,
}

impl Accounts {
    pub fn new(specs: Vec<AccountSpec>) -> Self {
        Self { specs, issued: HashMap::new() }
    }

    pub fn get(&self, id: &AccountId) -> Option<&AccountSpec> {
        self.specs.iter().find(|account| account.id == *id)
    }

    /// Whose a token is, while it is good.
    pub fn authenticate(&self, token: &str, now: SystemTime) -> Option<AccountId> {
        let fixed = self
            .specs
            .iter()
            .find(|account| account.tokens.iter().any(|known| known.expose_secret() == token));
        if let Some(account) = fixed {
            return Some(account.id);
        }
        self.issued.get(token).filter(|(_, expires)| now < *expires).map(|(account, _)| *account)
    }

    /// Whether `account` is `ancestor` or stands below it.
    pub fn is_within(&self, ancestor: &AccountId, account: &AccountId) -> bool {
        let mut at = Some(*account);
        // As many steps as there are accounts: a tree that loops ends too.
        for _ in 0..=self.specs.len() {
            match at {
                Some(id) if id == *ancestor => return true,
                Some(id) => at = self.get(&id).and_then(|spec| spec.parent),
                None => return false,
            }
        }
        false
    }

    /// All accounts below one, with the ids on the way down to each.
    pub fn descendants(&self, ancestor: &AccountId) -> Vec<(&AccountSpec, Vec<AccountId>)> {
        self.specs
            .iter()
            .filter(|spec| spec.id != *ancestor && self.is_within(ancestor, &spec.id))
            .map(|spec| (spec, self.tree(spec)))
            .collect()
    }

    /// The accounts above one, the master first.
    pub fn tree(&self, spec: &AccountSpec) -> Vec<AccountId> {
        let mut above = Vec::new();
        let mut at = spec.parent;
        while let Some(id) = at.filter(|id| !above.contains(id)) {
            above.push(id);
            at = self.get(&id).and_then(|spec| spec.parent);
        }
        above.reverse();
        above
    }

    /// The account that a hash of `username:password` logs in to.
    pub fn login(&self, named: Named<'_>, hash: &str, method: HashMethod) -> Option<AccountId> {
        let account = self.specs.iter().find(|account| match named {
            Named::Name(name) => normal_name(&account.name) == normal_name(name),
            Named::Realm(realm) => account.realm.eq_ignore_ascii_case(realm),
            Named::PhoneNumber(number) => account.phone_numbers.iter().any(|own| own == number),
        })?;
        let good = account.users.iter().any(|user| {
            let plain = format!("{}:{}", user.username.to_lowercase(), user.password.expose_secret());
            hash.eq_ignore_ascii_case(&match method {
                HashMethod::Md5 => hex::encode(Md5::digest(&plain)),
                HashMethod::Sha => hex::encode(Sha1::digest(&plain)),
            })
        });
        good.then_some(account.id)
    }

    /// The account that an API key logs in to.
    pub fn login_with_key(&self, key: &str) -> Option<AccountId> {
        let good = |account: &&AccountSpec| account.api_keys.iter().any(|own| own.expose_secret() == key);
        self.specs.iter().find(good).map(|account| account.id)
    }

    /// Makes a token that is good until `expires`: a JWT to look at, with a signature that nobody checks.
    pub fn issue(
        &mut self,
        account: AccountId,
        method: &str,
        now: SystemTime,
        expires: SystemTime,
        random: &dyn Random,
    ) -> String {
        self.issued.retain(|_, (_, until)| now < *until);
        let exp = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let header = serde_json::json!({ "typ": "JWT", "alg": "RS256", "kid": hex32(random) });
        let claims = serde_json::json!({
            "account_id": account.as_str(),
            "owner_id": owner_id(&account),
            "method": method,
            "iss": "kazoo",
            "exp": exp,
            "identity_sig": URL_SAFE_NO_PAD.encode(bytes(random, 32)),
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signature = URL_SAFE_NO_PAD.encode(bytes(random, 256));
        let token = format!("{}.{}.{signature}", part(&header), part(&claims));
        self.issued.insert(token.clone(), (account, expires));
        token
    }

    /// Makes a token good until `expires`, or never again.
    pub fn set_token(&mut self, token: &str, account: Option<(AccountId, SystemTime)>) {
        match account {
            Some(account) => _ = self.issued.insert(token.to_owned(), account),
            None => _ = self.issued.remove(token),
        }
    }
}

/// The id of the user that stands for an account at login.
pub(super) fn owner_id(account: &AccountId) -> String {
    format!("owner{}", &account.as_str()[5..])
}

/// 32 random hex digits: request ids, message ids.
pub(super) fn hex32(random: &dyn Random) -> String {
    format!("{:016x}{:016x}", random.next_u64(), random.next_u64())
}

fn bytes(random: &dyn Random, length: usize) -> Vec<u8> {
    std::iter::repeat_with(|| random.next_u64().to_le_bytes()).flatten().take(length).collect()
}

/// Kazoo compares account names by their letters and digits.
fn normal_name(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The database of an account, with its slashes encoded as routing keys have them.
pub(super) fn account_db(id: &AccountId) -> String {
    let id = id.as_str();
    format!("account%2F{}%2F{}%2F{}", &id[..2], &id[2..4], &id[4..])
}

/// The database of an account for a month.
pub(super) fn month_db(id: &AccountId, (year, month): (i16, i8)) -> String {
    let mut db = account_db(id);
    // Writing to a String cannot fail.
    _ = write!(db, "-{year:04}{month:02}");
    db
}

/// Reads an account id in any of the forms that Kazoo's own code takes: plain, as a database, for a month.
pub(super) fn parse_account(text: &str) -> Option<AccountId> {
    let plain = text.replace("%2F", "/").replace("%2f", "/");
    let plain = match plain.strip_prefix("account/") {
        Some(db) => db.replace('/', ""),
        None => plain,
    };
    let plain = match plain.split_at_checked(32) {
        Some((id, month)) if month.len() == 7 && month.starts_with('-') => id.to_owned(),
        _ => plain,
    };
    plain.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::random::SeededRandom;

    fn accounts() -> (Accounts, Vec<AccountId>) {
        let specs = recorded_accounts();
        let ids = specs.iter().map(|spec| spec.id).collect();
        (Accounts::new(specs), ids)
    }

    #[test]
    fn logs_in_by_each_name_and_hash() {
        let (accounts, ids) = accounts();
        let md5 = hex::encode(Md5::digest("demo:hawking"));
        let sha = hex::encode(Sha1::digest("demo:hawking"));
        let login = |named, hash: &str, method| accounts.login(named, hash, method);
        assert_eq!(login(Named::Name("WefWef wefwef"), &md5, HashMethod::Md5), Some(ids[1]));
        assert_eq!(login(Named::Realm("acct3.2600hz.com"), &sha, HashMethod::Sha), Some(ids[2]));
        assert_eq!(login(Named::PhoneNumber("+15550000004"), &md5, HashMethod::Md5), Some(ids[3]));
        assert_eq!(login(Named::Name("wefwefwefwef"), &md5, HashMethod::Sha), None);
        assert_eq!(login(Named::Name("nobody"), &md5, HashMethod::Md5), None);
    }

    #[test]
    fn a_token_is_good_until_it_expires() {
        let (mut accounts, ids) = accounts();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_486_790);
        let hour = Duration::from_secs(3600);
        let token = accounts.issue(ids[1], "cb_user_auth", now, now + hour, &SeededRandom::new(1));
        assert!((700..900).contains(&token.len()), "about as long as a real one: {}", token.len());
        assert_eq!(accounts.authenticate(&token, now + hour / 2), Some(ids[1]));
        assert_eq!(accounts.authenticate(&token, now + hour), None);
        assert_eq!(accounts.authenticate("tok-acct4", now + hour), Some(ids[3]));
    }

    #[test]
    fn the_tree_goes_down_only() {
        let (accounts, ids) = accounts();
        assert!(accounts.is_within(&ids[0], &ids[3]));
        assert!(accounts.is_within(&ids[1], &ids[3]));
        assert!(!accounts.is_within(&ids[3], &ids[1]));
        assert!(!accounts.is_within(&ids[2], &ids[3]));
        let below: Vec<_> = accounts.descendants(&ids[1]).iter().map(|(spec, _)| spec.id).collect();
        assert_eq!(below, [ids[3]]);
    }

    #[test]
    fn account_ids_come_in_several_forms() {
        let id = recorded_accounts()[1].id;
        let db = account_db(&id);
        assert_eq!(db, "account%2Fac%2Fco%2Funt0000000000000000000000002");
        for form in
            [id.as_str(), &db, &month_db(&id, (2026, 11)), "account/ac/co/unt0000000000000000000000002"]
        {
            assert_eq!(parse_account(form), Some(id), "{form}");
        }
        assert_eq!(parse_account(&format!("{id} ")), None);
        assert_eq!(parse_account(""), None);
    }
}
