//! What differs between the configuration that is running and a new one.

use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret, SecretString};

use super::{
    Config,
    account::{Account, Draft},
    form::Form,
    settings::{Settings, Visitor},
};
use crate::binding::AccountId;

/// A setting that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The dotted key, such as `grpc.listen` or `accounts.ID.password`.
    pub key: String,
    /// As TOML; `None` where it is not set. Secrets are `***`.
    pub from: Option<String>,
    /// The same.
    pub to: Option<String>,
    /// Whether it is read at the start only.
    pub is_fixed: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
        match (&self.from, &self.to) {
            (Some(from), Some(to)) if from == to => write!(f, "{}: another secret", self.key),
            (from, to) => write!(f, "{}: {} -> {}", self.key, show(from), show(to)),
        }
    }
}

/// All that differs. Accounts are known by their ids: their order means nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Outside of the accounts.
    pub settings: Vec<Change>,
    /// Accounts that are new.
    pub added: Vec<Account>,
    /// Accounts that are gone.
    pub removed: Vec<AccountId>,
    /// Accounts that differ, as they are now.
    pub changed: Vec<(Account, Vec<Change>)>,
}

impl Changes {
    /// From the one to the other.
    pub fn between(running: &Config, new: &Config) -> Self {
        let mut changes = Self { settings: compare(seen(running), seen(new)), ..Self::default() };
        let old: BTreeMap<AccountId, &Account> =
            running.accounts.iter().map(|account| (account.id, account)).collect();
        for account in &new.accounts {
            match old.get(&account.id) {
                None => changes.added.push(account.clone()),
                Some(old) if *old != account => {
                    let of = |account: &Account| {
                        let mut collector = Collector::at(format!("accounts.{}", account.id));
                        Draft::from(account).visit(&mut collector);
                        collector.seen
                    };
                    changes.changed.push((account.clone(), compare(of(old), of(account))));
                }
                Some(_) => {}
            }
        }
        let is_gone = |id: &&AccountId| new.accounts.iter().all(|account| account.id != **id);
        changes.removed = old.keys().filter(is_gone).copied().collect();
        changes
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether any setting of a section differs, such as `grpc`.
    pub fn concern(&self, section: &str) -> bool {
        let inside = |key: &str| key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'));
        self.settings.iter().any(|change| inside(&change.key))
    }

    /// How many things differ.
    pub fn count(&self) -> usize {
        let changed: usize = self.changed.iter().map(|(_, changes)| changes.len()).sum();
        self.settings.len() + self.added.len() + self.removed.len() + changed
    }
}

/// A setting as it was seen.
struct Seen {
    shown: Option<String>,
    secret: Option<SecretString>,
    is_fixed: bool,
}

type All = BTreeMap<String, Seen>;

fn seen(config: &Config) -> All {
    let mut collector = Collector::at(String::new());
    config.clone().visit_sections(&mut collector);
    collector.seen
}

fn compare(mut running: All, new: All) -> Vec<Change> {
    let mut changes = Vec::new();
    // Both have every setting: whether it is set is another question.
    for (key, new) in new {
        let Some(old) = running.remove(&key) else { continue };
        let plain = |secret: &Option<SecretString>| secret.as_ref().map(|s| s.expose_secret().to_owned());
        if old.shown != new.shown || plain(&old.secret) != plain(&new.secret) {
            changes.push(Change { key, from: old.shown, to: new.shown, is_fixed: new.is_fixed });
        }
    }
    changes
}

/// Collects settings by their dotted keys.
struct Collector {
    path: String,
    seen: All,
}

impl Collector {
    fn at(path: String) -> Self {
        Self { path, seen: All::new() }
    }

    fn put(&mut self, key: &str, seen: Seen) {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        self.seen.insert(path, seen);
    }
}

impl Visitor for Collector {
    fn setting<F: Form>(&mut self, key: &'static str, _doc: &[&str], value: &mut F::Value, form: &F) {
        self.put(key, Seen { shown: form.show(value), secret: None, is_fixed: false });
    }

    fn fixed<F: Form>(&mut self, key: &'static str, _doc: &[&str], value: &mut F::Value, form: &F) {
        self.put(key, Seen { shown: form.show(value), secret: None, is_fixed: true });
    }

    fn secret(&mut self, key: &'static str, _doc: &[&str], value: &mut Option<SecretString>) {
        let shown = value.as_ref().map(|_| "***".to_owned());
        self.put(key, Seen { shown, secret: value.clone(), is_fixed: false });
    }

    fn section<S: Settings>(&mut self, key: &'static str, _doc: &[&str], value: &mut S) {
        let inner = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let outer = std::mem::replace(&mut self.path, inner);
        value.visit(self);
        self.path = outer;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        binding::{Binding, Kind, OptIn},
        config::{AccountName, Credentials, HashMethod},
    };

    fn account(number: u8, password: &str) -> Account {
        Account {
            id: format!("account{number:0>25}").parse().unwrap(),
            crossbar_url: None,
            blackhole_url: None,
            credentials: Credentials::User {
                username: "u".into(),
                password: password.into(),
                method: HashMethod::Md5,
                realm: AccountName::Realm("r".into()),
            },
            always_on: Vec::new(),
        }
    }

    fn texts(changes: &[Change]) -> Vec<String> {
        changes.iter().map(Change::to_string).collect()
    }

    #[test]
    fn each_difference_is_named_and_no_secret() {
        let running = Config { accounts: vec![account(1, "old"), account(2, "same")], ..Config::default() };
        assert!(Changes::between(&running, &running).is_empty());
        let mut new = running.clone();
        new.hub.linger = Duration::from_secs(5);
        new.grpc.listen.set_port(1);
        new.grpc.max_stream_age = Some(Duration::from_hours(6));
        new.accounts = vec![account(3, "new"), account(1, "changed")];
        new.accounts[1].always_on = vec![Binding::parse("call.*.*", &OptIn::default()).unwrap()];
        let changes = Changes::between(&running, &new);
        assert_eq!(
            texts(&changes.settings),
            [
                "grpc.listen: \"127.0.0.1:50051\" -> \"127.0.0.1:1\"",
                "grpc.max_stream_age: not set -> \"6h\"",
                "hub.linger: \"1m\" -> \"5s\"",
            ]
        );
        let fixed: Vec<bool> = changes.settings.iter().map(|change| change.is_fixed).collect();
        assert_eq!(fixed, [true, false, false]);
        assert_eq!(
            (&changes.added[..], &changes.removed[..]),
            (&new.accounts[..1], &[running.accounts[1].id][..])
        );
        let [(changed, what)] = &changes.changed[..] else { panic!("{changes:?}") };
        assert_eq!(*changed, new.accounts[1]);
        let id = new.accounts[1].id;
        assert_eq!(
            texts(what),
            [
                format!("accounts.{id}.always_on: [] -> [\"call.*.*\"]"),
                format!("accounts.{id}.password: another secret"),
            ]
        );
        assert!(changes.concern("grpc") && changes.concern("hub") && !changes.concern("upstream"));
        assert_eq!(changes.count(), 3 + 1 + 1 + 2);
    }

    #[test]
    fn the_order_of_accounts_means_nothing() {
        let running = Config { accounts: vec![account(1, "a"), account(2, "b")], ..Config::default() };
        let new = Config { accounts: vec![account(2, "b"), account(1, "a")], ..Config::default() };
        assert!(Changes::between(&running, &new).is_empty());
    }

    #[test]
    fn what_is_fixed_stays_and_the_whole_is_checked_again() {
        let running = Config::default();
        let mut new = Config::default();
        new.grpc.listen.set_port(1);
        new.hub.linger = Duration::from_secs(5);
        new.upstream.tls.server_name = Some("a".into());
        let adopted = new.adopt(&running).unwrap();
        assert_eq!(adopted.grpc.listen, running.grpc.listen);
        assert_eq!(adopted.upstream.tls, running.upstream.tls);
        assert_eq!(adopted.hub.linger, Duration::from_secs(5));

        // Right by itself, but not with the window that stays.
        let mut new = Config::default();
        new.upstream.dedupe_window = Duration::from_mins(10);
        new.upstream.rotation_grace = Duration::from_mins(5);
        let errors = new.adopt(&running).unwrap_err().to_string();
        assert!(errors.contains("upstream.dedupe_window"), "{errors}");

        // What has to be opted in for stays off until that is in force.
        let mut new = Config { accounts: vec![account(1, "a")], ..Config::default() };
        new.upstream.opt_in.0.insert(Kind::ConferenceCommand);
        new.accounts[0].always_on =
            vec![Binding::parse("conference.command.room", &new.upstream.opt_in).unwrap()];
        let errors = new.clone().adopt(&running).unwrap_err().to_string();
        assert!(errors.contains("always_on") && errors.contains("conference.command.room"), "{errors}");
        let running = Config { upstream: new.upstream.clone(), ..Config::default() };
        assert_eq!(new.clone().adopt(&running).unwrap().accounts, new.accounts);
    }
}
