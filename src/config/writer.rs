//! Writes settings as TOML, each under its comment.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::{
    form::Form,
    settings::{Settings, Visitor},
};

/// What stands in the place of a secret.
const REDACTED: &str = "\"***\"";

/// What a [`Writer`] makes of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// `#key = default`: to be uncommented where something else is wanted.
    Reference,
    /// `#key = example`: to be uncommented and filled in.
    Example,
    /// `key = value`, with the default where it is another.
    Effective,
}

/// Writes the settings that it visits.
pub(super) struct Writer {
    mode: Mode,
    /// The dotted key of the section.
    path: String,
    /// By dotted key; what a value is compared with.
    defaults: BTreeMap<String, Option<String>>,
    out: String,
}

impl Writer {
    /// Writes every setting, commented out.
    pub(super) fn reference() -> Self {
        Self::new(Mode::Reference)
    }

    /// Writes every setting, commented out, with an example where there is no default.
    pub(super) fn example() -> Self {
        Self::new(Mode::Example)
    }

    fn new(mode: Mode) -> Self {
        Self { mode, path: String::new(), defaults: BTreeMap::new(), out: String::new() }
    }

    /// Writes every setting with its value; what differs from those that `visit_defaults` visits gets a note.
    pub(super) fn effective(visit_defaults: impl FnOnce(&mut Writer)) -> Self {
        let mut defaults = Self::new(Mode::Effective);
        visit_defaults(&mut defaults);
        Self { defaults: defaults.defaults, ..Self::new(Mode::Effective) }
    }

    /// What was written.
    pub(super) fn finish(self) -> String {
        self.out
    }

    /// A comment of several lines.
    pub(super) fn comment(&mut self, lines: &[&str]) {
        for line in lines {
            self.line(format!("# {}", line.trim()).trim_end());
        }
    }

    pub(super) fn line(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    /// Writes a section under the header that its key makes.
    pub(super) fn table<S: Settings>(&mut self, key: &str, header: &str, doc: &[&str], section: &mut S) {
        let outer = self.path.clone();
        self.path = if outer.is_empty() { key.to_owned() } else { format!("{outer}.{key}") };
        self.line("");
        self.comment(doc);
        let mark = if self.mode == Mode::Example { "#" } else { "" };
        self.line(&format!("{mark}{}", header.replace("{}", &self.path)));
        section.visit(self);
        self.path = outer;
    }

    fn value(
        &mut self,
        key: &str,
        doc: &[&str],
        expected: &str,
        shown: Option<String>,
        example: Option<String>,
        fixed: bool,
    ) {
        let path = format!("{}.{key}", self.path);
        self.line("");
        self.comment(doc);
        let fixed = if fixed { " A change needs a restart." } else { "" };
        self.comment(&[&format!("Expects {expected}.{fixed}")]);
        match (&shown, example, self.mode) {
            (Some(value), _, Mode::Effective) => {
                if let Some(Some(default)) = self.defaults.get(&path).filter(|default| **default != shown) {
                    let note = format!("Default: {default}");
                    self.comment(&[&note]);
                }
                self.line(&format!("{key} = {value}"));
            }
            (Some(value), ..) => self.line(&format!("#{key} = {value}")),
            (None, Some(example), Mode::Example) => self.line(&format!("#{key} = {example}")),
            (None, Some(example), _) => {
                self.comment(&[&format!("Not set. For example: {key} = {example}")]);
            }
            (None, None, _) => self.comment(&[&format!("Not set: {key}.")]),
        }
        self.defaults.entry(path).or_insert(shown);
    }
}

impl Visitor for Writer {
    fn setting<F: Form>(&mut self, key: &'static str, doc: &[&str], value: &mut F::Value, form: &F) {
        self.value(key, doc, &form.expected(), form.show(value), form.example(), false);
    }

    fn fixed<F: Form>(&mut self, key: &'static str, doc: &[&str], value: &mut F::Value, form: &F) {
        self.value(key, doc, &form.expected(), form.show(value), form.example(), true);
    }

    fn secret(&mut self, key: &'static str, doc: &[&str], value: &mut Option<SecretString>) {
        let file = format!("{key}_file");
        let expected = format!(
            "a text; or {file}, the path of a file that holds it; or {key}_env, a variable that does"
        );
        if value.is_none() && self.mode == Mode::Example {
            self.value(&file, doc, &expected, None, Some(format!("\"/run/secrets/{key}\"")), false);
        } else {
            self.value(key, doc, &expected, value.as_ref().map(|_| REDACTED.to_owned()), None, false);
        }
    }

    fn section<S: Settings>(&mut self, key: &'static str, doc: &[&str], value: &mut S) {
        self.table(key, "[{}]", doc, value);
    }
}
