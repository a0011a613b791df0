//! The untyped tree that the file and the environment are merged into. Each value knows where it came from.

use std::{collections::BTreeMap, fs, path::Path};

use ::config::{FileFormat, Format, ValueKind};

use super::error::{ConfigError, Place, Problem};
use crate::binding::AccountId;

/// What an environment variable that is a setting begins with.
const PREFIX: &str = "HAWKING_";

/// What stands between the levels of a key in the name of a variable.
const SEPARATOR: &str = "__";

/// Variables that the command line reads itself (clap's `env`): no settings of the tree.
pub(crate) const COMMAND_LINE_VARIABLES: &[&str] = &["HAWKING_CONFIG", "HAWKING_ADMIN_ADDRESS"];

/// A value and its origin. It has no `Debug`: it may be a secret.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value of a configuration file, or the text of a variable.
#[derive(Clone)]
pub(crate) enum Value {
    Flag(bool),
    Integer(i128),
    Number(f64),
    Text(String),
    /// Text from the environment, where every type is written as text.
    Variable(String),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Node {
    pub(crate) fn table(place: Place) -> Self {
        Self { place, value: Value::Table(BTreeMap::new()) }
    }

    /// The type of the value, for people: all that may be said of a value that could be secret.
    pub(crate) fn type_name(&self) -> &'static str {
        match self.value {
            Value::Flag(_) => "true or false",
            Value::Integer(_) => "an integer",
            Value::Number(_) => "a number",
            Value::Text(_) | Value::Variable(_) => "a text",
            Value::List(_) => "a list",
            Value::Table(_) => "a section",
        }
    }

    /// The value, for people, cut short. Only for values that are not secret.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Flag(flag) => flag.to_string(),
            Value::Integer(integer) => integer.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Text(text) | Value::Variable(text) => shorten(text),
            Value::List(_) | Value::Table(_) => self.type_name().to_owned(),
        }
    }
}

/// Quotes a text and cuts it to a length that is good to read.
pub(crate) fn shorten(text: &str) -> String {
    const MAX: usize = 80;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Reads a file: TOML or YAML, by its extension.
pub(crate) fn read_file(path: &Path) -> Result<Node, ConfigError> {
    let fail = |problem| ConfigError { place: Place::File(path.to_owned()), key: String::new(), problem };
    let (format, name) = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => (FileFormat::Toml, "TOML"),
        Some("yaml" | "yml") => (FileFormat::Yaml, "YAML"),
        _ => {
            return Err(fail(Problem::Unexpected {
                found: "a file of unknown type".to_owned(),
                expected: "a name that ends in .toml, .yaml or .yml".to_owned(),
            }));
        }
    };
    let text = fs::read_to_string(path).map_err(|error| {
        fail(Problem::Unreadable { path: "the configuration file".to_owned(), reason: error.to_string() })
    })?;
    let table = format.parse(None, &text).map_err(|error| {
        fail(Problem::Syntax { format: name, reason: scrub_syntax_error(&error.to_string()) })
    })?;

    let place = Place::File(path.to_owned());
    let mut root = BTreeMap::new();
    for (key, value) in table {
        if let Some(node) = convert(value.kind, &place) {
            root.insert(key, node);
        }
    }
    Ok(Node { place, value: Value::Table(root) })
}

/// `None` for YAML's null, so that `grpc:` with everything below it commented out is an empty section.
fn convert(kind: ValueKind, place: &Place) -> Option<Node> {
    let value = match kind {
        ValueKind::Nil => return None,
        ValueKind::Boolean(flag) => Value::Flag(flag),
        ValueKind::I64(integer) => Value::Integer(integer.into()),
        ValueKind::U64(integer) => Value::Integer(integer.into()),
        ValueKind::I128(integer) => Value::Integer(integer),
        ValueKind::U128(integer) => match i128::try_from(integer) {
            Ok(integer) => Value::Integer(integer),
            Err(_) => Value::Number(integer as f64),
        },
        ValueKind::Float(number) => Value::Number(number),
        ValueKind::String(text) => Value::Text(text),
        ValueKind::Array(list) => {
            Value::List(list.into_iter().filter_map(|value| convert(value.kind, place)).collect())
        }
        ValueKind::Table(table) => Value::Table(
            table.into_iter().filter_map(|(key, value)| Some((key, convert(value.kind, place)?))).collect(),
        ),
    };
    Some(Node { place: place.clone(), value })
}

/// Parsers like to show the line that they stumbled over, and that line may hold a password. Keeps what names the place
/// and the fault, and only where the text has a shape that is known not to quote the file.
fn scrub_syntax_error(text: &str) -> String {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    match lines.next() {
        // toml: "TOML parse error at line 3, column 8", then the line with a marker, then the fault.
        Some(first) if first.starts_with("TOML parse error at ") => {
            let place = first.trim_start_matches("TOML parse error at ");
            match lines.next_back() {
                Some(fault) if !fault.contains('|') => format!("{fault}, at {place}"),
                _ => format!("at {place}"),
            }
        }
        // yaml-rust2: "did not find expected ',' or ']' at byte 12 line 2 column 3"; a duplicate key is quoted with its type.
        Some(first) => match first.rsplit_once(" at byte ") {
            Some((fault, place)) => {
                let place = place.split_once(' ').map_or(place, |(_, place)| place);
                let fault = if fault.contains("duplicated key") { "duplicate key" } else { fault };
                format!("{fault}, at {place}")
            }
            None => "it is not a table of settings, or holds a value of an unknown type".to_owned(),
        },
        None => "unknown".to_owned(),
    }
}

/// Lays the environment over the tree: `HAWKING_GRPC__LISTEN` is `grpc.listen`, `HAWKING_ACCOUNTS__0__PASSWORD` the
/// first account's password, and `HAWKING_ACCOUNTS__<account id>__PASSWORD` that of the account with this id, which is
/// added where the file has none.
///
/// A variable without any text counts as not set.
pub(crate) fn overlay(
    root: &mut Node,
    environment: &BTreeMap<String, String>,
    errors: &mut Vec<ConfigError>,
) {
    let mut settings = Vec::new();
    for (name, text) in environment {
        let Some(rest) = setting(name, text) else { continue };
        let path: Vec<String> = rest.split(SEPARATOR).map(str::to_ascii_lowercase).collect();
        settings.push((path, name, text));
    }
    // By number where there are numbers, so that `__2__` comes before `__10__` and a list grows in order.
    settings.sort_by_cached_key(|(path, ..)| {
        path.iter().map(|part| (index(part).unwrap_or(usize::MAX), part.clone())).collect::<Vec<_>>()
    });

    for (path, name, text) in settings {
        let place = Place::Variable(name.clone());
        if let Err(problem) = set(root, &path, &place, text) {
            errors.push(ConfigError { place, key: path.join("."), problem });
        }
    }
}

/// What follows the prefix in a variable that is meant as a setting, and is set.
pub(crate) fn setting<'n>(name: &'n str, text: &str) -> Option<&'n str> {
    let rest = name.strip_prefix(PREFIX)?;
    let is_setting = !COMMAND_LINE_VARIABLES.contains(&name) && !text.is_empty() && !is_service_link(rest);
    is_setting.then_some(rest)
}

fn set(node: &mut Node, path: &[String], place: &Place, text: &str) -> Result<(), Problem> {
    let Some((first, rest)) = path.split_first() else {
        *node = Node { place: place.clone(), value: Value::Variable(text.to_owned()) };
        return Ok(());
    };
    // A scalar gives way to the section that the variable speaks of; an unknown one is refused when it is read.
    if !matches!(node.value, Value::List(_) | Value::Table(_)) {
        *node = empty_for(first, place);
    }
    match &mut node.value {
        Value::List(list) => {
            let item = if let Some(index) = index(first) {
                if index > list.len() {
                    return Err(Problem::Unexpected {
                        found: format!("index {index}"),
                        expected: format!("the next free index, {}", list.len()),
                    });
                }
                if index == list.len() {
                    list.push(Node::table(place.clone()));
                }
                &mut list[index]
            } else if let Ok(id) = first.parse::<AccountId>() {
                let position = match list.iter().position(|item| has_id(item, first)) {
                    Some(position) => position,
                    None => {
                        let mut account = Node::table(place.clone());
                        set(&mut account, &["id".to_owned()], place, id.as_str())?;
                        list.push(account);
                        list.len() - 1
                    }
                };
                &mut list[position]
            } else {
                return Err(Problem::Unexpected {
                    found: format!("{first:?}"),
                    expected: "an index from 0 or an account's id".to_owned(),
                });
            };
            set(item, rest, place, text)
        }
        Value::Table(table) => {
            let child = table.entry(first.clone()).or_insert_with(|| match rest.first() {
                Some(next) => empty_for(next, place),
                None => Node::table(place.clone()),
            });
            set(child, rest, place, text)
        }
        // Made a list or a table above.
        _ => Ok(()),
    }
}

/// The container that `part` is a key or an index of.
fn empty_for(part: &str, place: &Place) -> Node {
    if index(part).is_some() || part.parse::<AccountId>().is_ok() {
        Node { place: place.clone(), value: Value::List(Vec::new()) }
    } else {
        Node::table(place.clone())
    }
}

fn index(part: &str) -> Option<usize> {
    // An account's id may be all digits; no list has ten thousand entries.
    if part.len() > 4 { None } else { part.parse().ok() }
}

fn has_id(node: &Node, id: &str) -> bool {
    let Value::Table(table) = &node.value else { return false };
    match table.get("id").map(|node| &node.value) {
        Some(Value::Text(text) | Value::Variable(text)) => text.eq_ignore_ascii_case(id),
        _ => false,
    }
}

/// Kubernetes sets variables in every pod for every Service of its namespace: a Service named `hawking` or
/// `hawking-admin` gives `HAWKING_SERVICE_HOST`, `HAWKING_ADMIN_PORT_50051_TCP_ADDR` and so on. They are no settings.
fn is_service_link(rest: &str) -> bool {
    if rest.contains(SEPARATOR) {
        return false;
    }
    let parts: Vec<&str> = rest.split('_').collect();
    parts.windows(2).any(|pair| pair == ["SERVICE", "HOST"] || pair == ["SERVICE", "PORT"])
        || parts.last() == Some(&"PORT")
        || parts.windows(3).any(|run| {
            run[0] == "PORT" && run[1].parse::<u16>().is_ok() && matches!(run[2], "TCP" | "UDP" | "SCTP")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_are_told_from_settings() {
        for link in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_GRPC",
            "PORT",
            "PORT_50051_TCP",
            "PORT_50051_TCP_ADDR",
            "ADMIN_SERVICE_HOST",
            "ADMIN_PORT",
            "ADMIN_PORT_8080_TCP_PROTO",
        ] {
            assert!(is_service_link(link), "{link}");
        }
        for setting in ["GRPC__LISTEN", "GRPC_LISTEN", "ACCOUNTS__0__PORT", "PORT_ABC_TCP"] {
            assert!(!is_service_link(setting), "{setting}");
        }
    }

    #[test]
    fn syntax_errors_lose_the_line_that_they_quote() {
        let toml = "TOML parse error at line 3, column 12\n  |\n3 | password = hunter2\n  |            ^^^^^^^\nstring values must be quoted, expected literal string\n";
        assert_eq!(
            scrub_syntax_error(toml),
            "string values must be quoted, expected literal string, at line 3, column 12"
        );
        assert!(!scrub_syntax_error("Cannot parse Hash({\"hunter2\"}) because").contains("hunter2"));
    }
}
