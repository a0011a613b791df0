//! What a metric is, and how its samples are written.
//!
//! The text is that of Prometheus (version 0.0.4) or of OpenMetrics (1.0.0): the same samples, with differences in what
//! stands above them. In the latter a family of counters is named without `_total`, one of informations without `_info`,
//! units are told, and `# EOF` ends it all.
//!
//! The crate `prometheus-client` writes the second text alone, and holds what it writes; here nearly all is read at a scrape,
//! and whoever asks with curl gets the first.

use std::{
    fmt::{self, Write},
    time::{Duration, SystemTime},
};

use super::count::ByWord;

/// Which of the two texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What every scraper reads.
    Prometheus,
    /// What those who ask for it get.
    OpenMetrics,
}

impl Form {
    /// The type of the text.
    pub fn content_type(self) -> &'static str {
        match self {
            Form::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// They only grow, while the process runs.
    Counter,
    /// They go up and down.
    Gauge,
    /// They are 1: what matters stands in the labels.
    Info,
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Info => "_info",
        }
    }

    fn as_str(self, form: Form) -> &'static str {
        match (self, form) {
            (Kind::Counter, _) => "counter",
            (Kind::Info, Form::OpenMetrics) => "info",
            (Kind::Gauge, _) | (Kind::Info, Form::Prometheus) => "gauge",
        }
    }
}

/// A metric: all of its samples have this in common.
#[derive(Debug)]
pub(super) struct Family {
    /// Without the suffix that comes from the kind. It ends with its unit, if it has one.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

impl Family {
    /// As its samples are named.
    #[cfg(test)]
    pub(super) fn exposed_name(&self) -> String {
        format!("{}{}", self.name, self.kind.suffix())
    }

    /// Base units only: nobody should have to look whether these are milliseconds.
    fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes"].into_iter().find(|unit| self.name.ends_with(unit))
    }
}

/// A sample's number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Whole(number) => number.fmt(f),
            Value::Real(number) => number.fmt(f),
        }
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Whole(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Value::Whole(number as u64)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Value::Whole(flag.into())
    }
}

impl From<Duration> for Value {
    fn from(duration: Duration) -> Self {
        Value::Real(duration.as_secs_f64())
    }
}

impl From<SystemTime> for Value {
    fn from(time: SystemTime) -> Self {
        time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().into()
    }
}

/// The text while it is written.
#[derive(Debug)]
pub(super) struct Sheet {
    form: Form,
    text: String,
}

impl Sheet {
    pub(super) fn new(form: Form) -> Self {
        Self { form, text: String::with_capacity(16 << 10) }
    }

    /// Writes a family with its samples: the values of its labels, in their order, and the number. Without samples nothing is
    /// written.
    pub(super) fn family<'a, const LABELS: usize, V: Into<Value>>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = ([&'a str; LABELS], V)>,
    ) {
        debug_assert_eq!(LABELS, family.labels.len(), "{}", family.name);
        let mut headed = false;
        for (labels, value) in samples {
            if !std::mem::replace(&mut headed, true) {
                self.head(family);
            }
            self.sample(family, &labels, value.into());
        }
    }

    /// A family with one sample.
    pub(super) fn one<const LABELS: usize>(
        &mut self,
        family: &Family,
        labels: [&str; LABELS],
        value: impl Into<Value>,
    ) {
        self.family(family, [(labels, value)]);
    }

    /// A family with one sample, where there is a number.
    pub(super) fn maybe(&mut self, family: &Family, value: Option<impl Into<Value>>) {
        self.family(family, value.map(|value| ([], value)));
    }

    /// A family whose one label is a word.
    pub(super) fn words(&mut self, family: &Family, counts: &ByWord) {
        self.family(family, counts.get().into_iter().map(|(word, count)| ([word], count)));
    }

    pub(super) fn finish(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn head(&mut self, family: &Family) {
        let Family { name, kind, help, .. } = family;
        let suffix = match self.form {
            Form::Prometheus => kind.suffix(),
            Form::OpenMetrics => "",
        };
        let kind = kind.as_str(self.form);
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}");
        if self.form == Form::OpenMetrics
            && let Some(unit) = family.unit()
        {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
    }

    fn sample(&mut self, family: &Family, labels: &[&str], value: Value) {
        self.text.push_str(family.name);
        self.text.push_str(family.kind.suffix());
        let mut before = '{';
        for (name, value) in family.labels.iter().zip(labels) {
            self.text.push(before);
            self.text.push_str(name);
            self.text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' | '"' => self.text.extend(['\\', c]),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: Family = Family {
        name: "test_call_seconds",
        kind: Kind::Counter,
        labels: &["account", "way"],
        help: "Time spent in calls.",
    };
    const BUILD: Family = Family { name: "test", kind: Kind::Info, labels: &["v"], help: "What it is." };
    const OPEN: Family = Family { name: "test_open", kind: Kind::Gauge, labels: &[], help: "How many." };

    fn text(form: Form) -> String {
        let mut sheet = Sheet::new(form);
        let samples = [(["a", "in"], Duration::from_millis(1500)), (["b\"\\\n", "out"], Duration::ZERO)];
        sheet.family(&CALLS, samples);
        sheet.one(&BUILD, ["1"], true);
        sheet.one(&OPEN, [], 3_u64);
        sheet.family(&OPEN, [([], 0_u64); 0]);
        sheet.finish()
    }

    #[test]
    fn the_two_forms_differ_above_the_samples() {
        let prometheus = "\
# HELP test_call_seconds_total Time spent in calls.
# TYPE test_call_seconds_total counter
test_call_seconds_total{account=\"a\",way=\"in\"} 1.5
test_call_seconds_total{account=\"b\\\"\\\\\\n\",way=\"out\"} 0
# HELP test_info What it is.
# TYPE test_info gauge
test_info{v=\"1\"} 1
# HELP test_open How many.
# TYPE test_open gauge
test_open 3
";
        assert_eq!(text(Form::Prometheus), prometheus);
        let openmetrics = prometheus
            .replace("HELP test_call_seconds_total", "HELP test_call_seconds")
            .replace(
                "TYPE test_call_seconds_total counter",
                "TYPE test_call_seconds counter\n# UNIT test_call_seconds seconds",
            )
            .replace("HELP test_info", "HELP test")
            .replace("TYPE test_info gauge", "TYPE test info");
        assert_eq!(text(Form::OpenMetrics), openmetrics + "# EOF\n");
    }
}
