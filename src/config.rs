//! The configuration: one typed tree, from a file and the environment.
//!
//! A TOML or YAML file is overlaid by `HAWKING_*` variables, with `__` between the levels of a key:
//! `HAWKING_GRPC__LISTEN` is `grpc.listen`. Of a list, `HAWKING_ACCOUNTS__0__PASSWORD` means the first account, and
//! `HAWKING_ACCOUNTS__<account id>__PASSWORD` the one with this id; either can add an account, so that no file is needed
//! at all. `HAWKING_CONFIG` names the file itself. Durations and sizes are written as people do (`30s`, `64MiB`). A secret is given in place, as `KEY_file` or as
//! `KEY_env`.
//!
//! # Layout
//!
//! - `settings`: what a section is. Each setting is declared once, with comment, default and form; from that follow the
//!   struct, its default, the reader and the writer.
//! - `upstream`, `account`, `hub`, `grpc`, `admin`, `process`: the sections.
//! - `form`: how values are written. `tree`: the file and the environment merged. `reader`, `writer`: there and back.
//! - `error`: everything that is wrong, at once.
//! - `changes`: what differs between the running configuration and a new one. `in_force`: sections that can change.
//!   `reload`: how that is noticed.

mod account;
mod admin;
mod changes;
mod error;
mod form;
mod grpc;
mod hub;
mod in_force;
mod process;
mod reader;
mod reload;
mod settings;
mod tree;
mod upstream;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use self::{
    account::Draft,
    reader::{Checks, Reader, Session},
    settings::{Settings, Visitor},
    tree::{Node, Value},
    writer::Writer,
};
pub use self::{
    account::{Account, AccountName, Credentials, HashMethod},
    admin::Admin,
    changes::{Change, Changes},
    error::{ConfigError, ConfigErrors, Place, Problem},
    grpc::{Grpc, GrpcTls},
    hub::Hub,
    in_force::InForce,
    process::{LogFormat, MAX_DRAIN_TIMEOUT, Shutdown, Telemetry},
    reload::Reload,
    upstream::{Upstream, UpstreamTls},
};
use crate::binding::{Binding, Kind, OptIn};

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// What concerns all upstreams.
    pub upstream: Upstream,
    /// The accounts that hawking has credentials for.
    pub accounts: Vec<Account>,
    /// Logs and subscriptions.
    pub hub: Hub,
    /// The listener for consumers.
    pub grpc: Grpc,
    /// The listeners for operators and their tools.
    pub admin: Admin,
    /// What hawking says about itself.
    pub telemetry: Telemetry,
    /// How it ends.
    pub shutdown: Shutdown,
    /// How changes of all this are noticed.
    pub reload: Reload,
}

impl Config {
    /// Reads the file, if there is one, and lays the variables over it.
    ///
    /// `env` is the whole environment (see [`environment`]): variables without the prefix are looked up for `KEY_env`.
    /// Without accounts the configuration is valid all the same; what to make of that is the caller's.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, not only the first thing. No text of an error contains a secret.
    pub fn load(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        Self::load_with_sources(path, env).0
    }

    /// The same, and the files that it was read from: the configuration and the secrets, also where they cannot be read.
    pub fn load_with_sources(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> (Result<Self, ConfigErrors>, BTreeSet<PathBuf>) {
        let mut sources = path.map(Path::to_owned).into_iter().collect();
        (Self::read(path, env, &mut sources), sources)
    }

    fn read(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        sources: &mut BTreeSet<PathBuf>,
    ) -> Result<Self, ConfigErrors> {
        let environment: BTreeMap<String, String> = env.into_iter().collect();
        let home = path.map_or(Place::Environment, |path| Place::File(path.to_owned()));
        let mut root = match path {
            // Of a file that cannot be read nothing else can be said.
            Some(path) => tree::read_file(path).map_err(|error| ConfigErrors(vec![error]))?,
            None => Node::table(Place::Environment),
        };
        let mut session = Session::new(home, &environment);
        tree::overlay(&mut root, &environment, &mut session.errors);

        let mut config = Self::default();
        Reader::open(&mut session, "", Some(&root), |reader| {
            config.visit_sections(reader);
            let accounts = reader.take("accounts");
            config.accounts = read_accounts(reader.session(), accounts, &config.upstream);
        });
        config.check(&mut session);
        sources.append(&mut session.secret_files);
        if session.errors.is_empty() { Ok(config) } else { Err(ConfigErrors(session.errors)) }
    }

    /// Settings that must go together.
    fn check(&self, session: &mut Session<'_>) {
        let mut checks = Checks(session);
        self.upstream.check(&mut checks);
        self.hub.check(&mut checks);
        self.grpc.check(&mut checks);
        self.shutdown.check(&mut checks);
    }

    /// What this configuration comes to where `running` is running: what is read at the start only stays as it is there.
    ///
    /// # Errors
    ///
    /// Where the settings do not go together then.
    pub fn adopt(mut self, running: &Self) -> Result<Self, ConfigErrors> {
        self.upstream.keep_fixed(&running.upstream);
        self.hub.keep_fixed(&running.hub);
        self.grpc.keep_fixed(&running.grpc);
        self.admin.keep_fixed(&running.admin);
        self.telemetry.keep_fixed(&running.telemetry);
        self.shutdown.keep_fixed(&running.shutdown);
        self.reload.keep_fixed(&running.reload);
        let environment = BTreeMap::new();
        let mut session = Session::new(Place::Running, &environment);
        self.check(&mut session);
        // They were read by the opt-in of the new configuration; here that of the running one holds.
        for account in &self.accounts {
            for binding in &account.always_on {
                if let Err(error) = Binding::parse(binding.as_str(), &self.upstream.opt_in) {
                    let key = format!("accounts.{}.always_on", account.id);
                    let (found, reason) = (binding.to_string(), error.to_string());
                    session.fail(Place::Running, key, Problem::Refused { found, reason });
                }
            }
        }
        if session.errors.is_empty() { Ok(self) } else { Err(ConfigErrors(session.errors)) }
    }

    /// All sections but the accounts.
    fn visit_sections<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.section(
            "upstream",
            &["The sessions to the upstream. A reload holds from the next login, session or replacement on."],
            &mut self.upstream,
        );
        visitor.section(
            "hub",
            &["Logs and subscriptions. A reload holds at once; subscriptions that are open stay."],
            &mut self.hub,
        );
        visitor.section(
            "grpc",
            &["The listener for consumers. A reload holds for new connections and new streams."],
            &mut self.grpc,
        );
        visitor.section(
            "admin",
            &[
                "The listeners for operators and their tools. Nobody is asked who they are there: keep them on loopback, or",
                "behind a NetworkPolicy.",
            ],
            &mut self.admin,
        );
        visitor.section("telemetry", &["What hawking says about itself."], &mut self.telemetry);
        visitor.section("shutdown", &["How hawking ends."], &mut self.shutdown);
        visitor.section("reload", &["How changes of the configuration are noticed."], &mut self.reload);
    }

    /// All settings in force as TOML, each under its comment, with the default where it is another. Secrets are `***`.
    pub fn redacted_toml(&self) -> String {
        let mut writer = Writer::effective(|defaults| {
            Self::default().visit_sections(defaults);
            write_account(defaults, &mut Draft::default());
        });
        writer.comment(&["hawking: all settings in force. Secrets are not shown."]);
        for account in &self.accounts {
            write_account(&mut writer, &mut Draft::from(account));
        }
        self.clone().visit_sections(&mut writer);
        writer.finish()
    }
}

/// All settings as commented TOML, with their defaults. As it stands it sets nothing; each setting can be uncommented.
pub fn reference() -> String {
    let mut writer = Writer::reference();
    writer.comment(&[
        "hawking: all settings with their defaults.",
        "",
        "A file like this one, in TOML or YAML, and the environment make the configuration; a variable wins over the",
        "file. HAWKING_GRPC__LISTEN is grpc.listen; HAWKING_ACCOUNTS__0__PASSWORD is the first account's password, and",
        "HAWKING_ACCOUNTS__<account id>__PASSWORD that of the account with this id. Either adds the account where there",
        "is none, so that variables alone are enough.",
        "",
        "Any secret can be given in place, or by the path of a file (password_file), or by the name of a variable",
        "(password_env).",
        "",
        "While hawking serves, changes of this file and of the files with secrets are taken up, also on SIGHUP, but for",
        "settings of which it says that a change needs a restart.",
    ]);
    let mut account = Writer::example();
    write_account(&mut account, &mut Draft::default());
    for line in account.finish().lines() {
        writer.line(line);
    }
    Config::default().visit_sections(&mut writer);
    writer.finish()
}

/// The variables of this process, for [`Config::load`]. Those that are not UTF-8 cannot be settings and are left out.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
}

/// Whether any of these variables is a setting.
pub fn is_set_by(env: impl IntoIterator<Item = (String, String)>) -> bool {
    env.into_iter().any(|(name, text)| tree::setting(&name, &text).is_some())
}

fn write_account(writer: &mut Writer, draft: &mut Draft) {
    writer.table(
        "accounts",
        "[[{}]]",
        &["An account that hawking has credentials for; one such section for each."],
        draft,
    );
}

fn read_accounts(session: &mut Session<'_>, node: Option<&Node>, upstream: &Upstream) -> Vec<Account> {
    let list = match node {
        None => return Vec::new(),
        Some(Node { value: Value::List(list), .. }) => list,
        Some(node) => {
            let problem = Problem::Unexpected {
                found: node.type_name().to_owned(),
                expected:
                    "a list of accounts: [[accounts]] in TOML, HAWKING_ACCOUNTS__0__ID in the environment"
                        .to_owned(),
            };
            session.fail(node.place.clone(), "accounts".to_owned(), problem);
            return Vec::new();
        }
    };
    // Where the list of kinds was refused, what needs it is not refused as well.
    let all = OptIn(Kind::ALL.into());
    let opt_in = if session.failed("upstream.opt_in") { &all } else { &upstream.opt_in };
    let mut accounts: Vec<Account> = Vec::new();
    let mut seen = BTreeMap::new();
    for (index, node) in list.iter().enumerate() {
        let path = format!("accounts[{index}]");
        accounts.extend(account::read(session, &path, node, opt_in, &mut seen));
    }
    accounts
}

#[cfg(test)]
mod tests;
