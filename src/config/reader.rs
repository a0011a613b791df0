//! Reads sections from the tree and collects everything that is wrong on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use secrecy::SecretString;

use super::{
    error::{ConfigError, Place, Problem},
    form::Form,
    settings::{Settings, Visitor},
    tree::{Node, Value},
};

/// What the readers of all sections share.
pub(super) struct Session<'a> {
    /// Where a missing setting belongs.
    pub(super) home: Place,
    /// All variables, for `KEY_env`.
    pub(super) environment: &'a BTreeMap<String, String>,
    /// What is wrong so far.
    pub(super) errors: Vec<ConfigError>,
    /// The files that secrets are in.
    pub(super) secret_files: BTreeSet<PathBuf>,
    /// Where each setting that is set was set, by its dotted key.
    places: BTreeMap<String, Place>,
}

impl<'a> Session<'a> {
    pub(super) fn new(home: Place, environment: &'a BTreeMap<String, String>) -> Self {
        Self { home, environment, errors: Vec::new(), secret_files: BTreeSet::new(), places: BTreeMap::new() }
    }

    pub(super) fn fail(&mut self, place: Place, key: String, problem: Problem) {
        self.errors.push(ConfigError { place, key, problem });
    }

    /// Where `key` was set, or where it would be.
    fn place(&self, key: &str) -> Place {
        self.places.get(key).unwrap_or(&self.home).clone()
    }

    /// Whether `key` was refused.
    pub(super) fn failed(&self, key: &str) -> bool {
        self.errors.iter().any(|error| error.key == key)
    }
}

/// Reads one section.
pub(super) struct Reader<'s, 'a> {
    session: &'s mut Session<'a>,
    /// The section's own dotted key; empty for the root.
    path: String,
    /// What was set in it. `None` where nothing was.
    table: Option<&'s BTreeMap<String, Node>>,
    /// The keys that there are.
    known: BTreeSet<String>,
}

impl<'s, 'a> Reader<'s, 'a> {
    /// Reads what stands in `node` into `section`.
    pub(super) fn read<S: Settings>(
        session: &mut Session<'a>,
        path: &str,
        node: Option<&Node>,
        section: &mut S,
    ) {
        Reader::open(session, path, node, |reader| section.visit(reader));
    }

    /// Opens the section in `node`, and at its end refuses the keys that nobody asked for.
    pub(super) fn open(
        session: &mut Session<'a>,
        path: &str,
        node: Option<&Node>,
        read: impl FnOnce(&mut Reader<'_, 'a>),
    ) {
        let table = match node {
            None => None,
            Some(Node { value: Value::Table(table), .. }) => Some(table),
            Some(node) => {
                let expected = "a section with settings".to_owned();
                let found = node.type_name().to_owned();
                session.fail(node.place.clone(), path.to_owned(), Problem::Unexpected { found, expected });
                // Nothing in it is missing, too.
                return;
            }
        };
        let mut reader = Reader { session, path: path.to_owned(), table, known: BTreeSet::new() };
        read(&mut reader);
        reader.refuse_unknown();
    }

    /// What stands under `key`, which is from now on known.
    pub(super) fn take(&mut self, key: &str) -> Option<&'s Node> {
        self.known.insert(key.to_owned());
        let node = self.table?.get(key)?;
        self.session.places.insert(self.key(key), node.place.clone());
        Some(node)
    }

    pub(super) fn session(&mut self) -> &mut Session<'a> {
        self.session
    }

    /// The dotted key of a setting of this section.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn refuse_unknown(self) {
        let Some(table) = self.table else { return };
        for (key, node) in table.iter().filter(|(key, _)| !self.known.contains(*key)) {
            let path = self.key(key);
            let hint = self.hint(key);
            // A section that came from variables alone is the fault of each of them.
            for place in places(node) {
                self.session.fail(place, path.clone(), Problem::UnknownKey { hint: hint.clone() });
            }
        }
    }

    /// What was probably meant by an unknown key.
    fn hint(&self, key: &str) -> String {
        if let Some(known) = nearest(key, &self.known) {
            return format!("did you mean `{known}`?");
        }
        let section =
            |known: &&String| key.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('_'));
        if let Some(known) = self.known.iter().find(section) {
            let rest = &key[known.len() + 1..];
            return format!(
                "did you mean `{known}.{rest}`? In a variable two underscores stand between levels"
            );
        }
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        format!("there are {}", known.join(", "))
    }

    /// Reads a secret in one of its three spellings.
    fn read_secret(&mut self, key: &'static str) -> Option<SecretString> {
        let spellings = [key.to_owned(), format!("{key}_file"), format!("{key}_env")];
        let mut set: Vec<(usize, &Node)> = Vec::new();
        for (index, spelling) in spellings.iter().enumerate() {
            if let Some(node) = self.take(spelling) {
                set.push((index, node));
            }
        }
        // The environment wins over the file, also with another spelling.
        if set.iter().any(|(_, node)| matches!(node.place, Place::Variable(_))) {
            set.retain(|(_, node)| matches!(node.place, Place::Variable(_)));
        }
        let (index, node) = match set[..] {
            [] => return None,
            [one] => one,
            [(_, node), ..] => {
                let names: Vec<&str> = set.iter().map(|(index, _)| spellings[*index].as_str()).collect();
                let reason = format!("{} are set; expected exactly one of them", names.join(" and "));
                self.session.fail(node.place.clone(), self.key(key), Problem::Conflict { reason });
                return None;
            }
        };
        let result = match (&node.value, index) {
            (Value::Text(text) | Value::Variable(text), 0) => Ok(text.clone()),
            (Value::Text(path) | Value::Variable(path), 1) => {
                self.session.secret_files.insert(path.into());
                read_secret_file(path)
            }
            (Value::Text(name) | Value::Variable(name), _) => {
                read_secret_variable(name, self.session.environment)
            }
            _ => Err(Problem::Unexpected {
                found: node.type_name().to_owned(),
                expected: if index == 0 { "a text in quotes" } else { "a path or a name, as a text" }
                    .to_owned(),
            }),
        };
        let result = result.and_then(|text| match text.as_str() {
            "" => Err(Problem::Unexpected {
                found: "nothing".to_owned(),
                expected: "a secret of at least one character".to_owned(),
            }),
            _ => Ok(text.into()),
        });
        match result {
            Ok(secret) => Some(secret),
            Err(problem) => {
                let key = self.key(&spellings[index]);
                self.session.fail(node.place.clone(), key, problem);
                None
            }
        }
    }

    /// Whether anything under `key`, in any spelling of a secret, is set or was refused.
    pub(super) fn mentions(&self, key: &str) -> bool {
        self.place_of(key).is_some()
    }

    /// Where `key`, in any spelling of a secret, was set.
    pub(super) fn place_of(&self, key: &str) -> Option<&'s Place> {
        let table = self.table?;
        ["", "_file", "_env"]
            .iter()
            .find_map(|suffix| table.get(&format!("{key}{suffix}")))
            .map(|node| &node.place)
    }
}

impl Visitor for Reader<'_, '_> {
    fn setting<F: Form>(&mut self, key: &'static str, _doc: &[&str], value: &mut F::Value, form: &F) {
        let Some(node) = self.take(key) else { return };
        match form.parse(node) {
            Ok(read) => *value = read,
            Err(found) => {
                let problem = Problem::Unexpected { found: found.0, expected: form.expected() };
                self.session.fail(node.place.clone(), self.key(key), problem);
            }
        }
    }

    fn secret(&mut self, key: &'static str, _doc: &[&str], value: &mut Option<SecretString>) {
        if let Some(secret) = self.read_secret(key) {
            *value = Some(secret);
        }
    }

    fn section<S: Settings>(&mut self, key: &'static str, _doc: &[&str], value: &mut S) {
        let node = self.take(key);
        let path = self.key(key);
        Reader::read(self.session, &path, node, value);
    }
}

/// One trailing newline is no part of a secret: editors and `echo` add it.
fn read_secret_file(path: &str) -> Result<String, Problem> {
    let mut text = fs::read_to_string(path).map_err(|error| Problem::Unreadable {
        // Somebody may have put the secret itself here: only what looks like a path is shown.
        path: if path.starts_with(['/', '.']) { path } else { "the file that it names (not shown)" }
            .to_owned(),
        reason: error.to_string(),
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn read_secret_variable(name: &str, environment: &BTreeMap<String, String>) -> Result<String, Problem> {
    if let Some(text) = environment.get(name) {
        return Ok(text.clone());
    }
    // Somebody may have put the secret itself here: only what looks like a name is shown.
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    Err(Problem::Unexpected {
        found: if name.chars().all(is_name) {
            format!("{name}, which is not set")
        } else {
            "a name (not shown) that is not set".to_owned()
        },
        expected: "the name of an environment variable that is set".to_owned(),
    })
}

/// The places that a node came from.
fn places(node: &Node) -> BTreeSet<Place> {
    match &node.value {
        Value::Table(table) if !table.is_empty() => table.values().flat_map(places).collect(),
        _ => BTreeSet::from([node.place.clone()]),
    }
}

/// The known key that `key` was probably meant to be.
fn nearest<'k>(key: &str, known: &'k BTreeSet<String>) -> Option<&'k str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let key = plain(key);
    let (distance, nearest) = known.iter().map(|known| (edit_distance(&key, known), known)).min()?;
    // A third of the letters wrong is a typing mistake; more is another word.
    (distance <= (nearest.len() / 3).max(1)).then_some(nearest)
}

/// How many letters must be put in, taken out, replaced or swapped with their neighbour to make `a` of `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// Checks of settings against each other. One that involves a setting which was refused is left out: the default that
/// stands in its place would only confuse.
pub(super) struct Checks<'s, 'a>(pub(super) &'s mut Session<'a>);

impl Checks<'_, '_> {
    /// Reports a conflict between `keys`, where the operator set one of them; the others are defaults.
    pub(super) fn fail(&mut self, keys: &[&str], reason: impl FnOnce() -> String) {
        let session = &mut *self.0;
        if keys.iter().any(|key| session.failed(key)) {
            return;
        }
        if let Some(key) = keys.iter().find(|key| session.places.contains_key(**key)).or(keys.first()) {
            session.fail(session.place(key), (*key).to_owned(), Problem::Conflict { reason: reason() });
        }
    }

    /// The first must be longer than the second.
    pub(super) fn longer(&mut self, long: (&str, Duration), short: (&str, Duration)) {
        if long.1 <= short.1 {
            self.fail(&[long.0, short.0], || {
                format!(
                    "{} is {} and {} is {}; expected the first to be longer",
                    long.0,
                    humantime::format_duration(long.1),
                    short.0,
                    humantime::format_duration(short.1)
                )
            });
        }
    }

    /// The first, in bytes, must not be larger than the second.
    pub(super) fn no_larger(&mut self, small: (&str, usize), large: (&str, usize)) {
        if small.1 > large.1 {
            self.fail(&[small.0, large.0], || {
                let [small_size, large_size] = [small.1, large.1].map(|size| ByteSize::b(size as u64));
                format!(
                    "{} is {small_size} and {} is {large_size}; expected the first not to be larger",
                    small.0, large.0
                )
            });
        }
    }

    /// The first must not be longer than the second.
    pub(super) fn ordered(&mut self, short: (&str, Duration), long: (&str, Duration)) {
        if short.1 > long.1 {
            self.fail(&[short.0, long.0], || {
                format!(
                    "{} is {} and {} is {}; expected the first not to be longer",
                    short.0,
                    humantime::format_duration(short.1),
                    long.0,
                    humantime::format_duration(long.1)
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, distance) in [
            ("", "", 0),
            ("listen", "listen", 0),
            ("lsiten", "listen", 1),
            ("liste", "listen", 1),
            ("", "abc", 3),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_key_is_near() {
        let known: BTreeSet<String> = ["listen", "heartbeat_min", "heartbeat_max"].map(str::to_owned).into();
        assert_eq!(nearest("lissten", &known), Some("listen"));
        assert_eq!(nearest("heartbeat-min", &known), Some("heartbeat_min"));
        assert_eq!(nearest("Listen", &known), Some("listen"));
        assert_eq!(nearest("port", &known), None);
    }

    #[test]
    fn only_what_could_be_a_variable_is_named() {
        let environment = BTreeMap::new();
        for secret in ["hunter2", "p4ss word", "Secret"] {
            let error = read_secret_variable(secret, &environment).unwrap_err().to_string();
            assert!(!error.contains(secret), "{error}");
        }
        assert!(
            read_secret_variable("DB_PASSWORD", &environment)
                .unwrap_err()
                .to_string()
                .contains("DB_PASSWORD")
        );
    }
}
