//! The forms that values take in a file or a variable: how each is read, what it must look like, and how it is shown.

use std::{marker::PhantomData, net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use url::Url;

use super::tree::{Node, Value, shorten};

/// How values of one kind are written.
pub(crate) trait Form {
    /// What it is read into.
    type Value;

    /// What would be right, for people: "a duration such as `30s`, 1s to 10m".
    fn expected(&self) -> String;

    /// Reads a value; the error says what was found instead.
    fn parse(&self, node: &Node) -> Result<Self::Value, Found>;

    /// The value as TOML. `None` where there is no value.
    fn show(&self, value: &Self::Value) -> Option<String>;

    /// A value as TOML to show where there is none by default.
    fn example(&self) -> Option<String> {
        None
    }
}

/// What stood there instead of what was expected, fit to be printed.
pub(crate) struct Found(pub(crate) String);

impl From<&Node> for Found {
    fn from(node: &Node) -> Self {
        Self(node.describe())
    }
}

/// A TOML string.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn text(node: &Node) -> Result<&str, Found> {
    match &node.value {
        Value::Text(text) | Value::Variable(text) => Ok(text),
        _ => Err(node.into()),
    }
}

/// `true` or `false`.
pub(crate) struct Flag;

impl Form for Flag {
    type Value = bool;

    fn expected(&self) -> String {
        "true or false".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<bool, Found> {
        match &node.value {
            Value::Flag(flag) => Ok(*flag),
            Value::Variable(text) => text.parse().map_err(|_| node.into()),
            _ => Err(node.into()),
        }
    }

    fn show(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// A whole number within bounds.
pub(crate) struct Count<T> {
    min: u64,
    max: u64,
    number: PhantomData<T>,
}

/// A whole number of `min` to `max`, which the type holds.
pub(crate) fn count<T>(min: u64, max: u64) -> Count<T> {
    Count { min, max, number: PhantomData }
}

impl<T: TryFrom<u64> + TryInto<u64> + Copy> Form for Count<T> {
    type Value = T;

    fn expected(&self) -> String {
        format!("a whole number, {} to {}", self.min, self.max)
    }

    fn parse(&self, node: &Node) -> Result<T, Found> {
        let number = match &node.value {
            Value::Integer(integer) => u64::try_from(*integer).ok(),
            Value::Variable(text) => text.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| (self.min..=self.max).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| node.into())
    }

    fn show(&self, value: &T) -> Option<String> {
        (*value).try_into().ok().map(|number: u64| number.to_string())
    }
}

/// A share: above 0, up to 1.
pub(crate) struct Share;

impl Form for Share {
    type Value = f64;

    fn expected(&self) -> String {
        "a number above 0, up to 1".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<f64, Found> {
        let number = match &node.value {
            Value::Number(number) => Some(*number),
            Value::Integer(integer) => Some(*integer as f64),
            Value::Variable(text) => text.parse().ok(),
            _ => None,
        };
        // NaN is in no range.
        number.filter(|number| *number > 0.0 && *number <= 1.0).ok_or_else(|| node.into())
    }

    fn show(&self, value: &f64) -> Option<String> {
        // `{:?}` keeps the `.0`, without which TOML reads an integer.
        Some(format!("{value:?}"))
    }
}

/// A duration within bounds, as humantime writes it.
pub(crate) struct Span {
    min: Duration,
    max: Duration,
}

/// A duration of `min` to `max`.
pub(crate) const fn span(min: Duration, max: Duration) -> Span {
    Span { min, max }
}

/// A positive duration of a day at most: the bounds of most time-outs and intervals.
pub(crate) const fn timeout() -> Span {
    span(Duration::from_millis(1), Duration::from_hours(24))
}

impl Form for Span {
    type Value = Duration;

    fn expected(&self) -> String {
        format!(
            "a duration such as \"500ms\", \"30s\" or \"5m\", {} to {}",
            humantime::format_duration(self.min),
            humantime::format_duration(self.max)
        )
    }

    fn parse(&self, node: &Node) -> Result<Duration, Found> {
        humantime::parse_duration(text(node)?)
            .ok()
            .filter(|duration| (self.min..=self.max).contains(duration))
            .ok_or_else(|| node.into())
    }

    fn show(&self, value: &Duration) -> Option<String> {
        Some(quote(&humantime::format_duration(*value).to_string()))
    }
}

/// A number of bytes within bounds.
pub(crate) struct Bytes {
    min: u64,
    max: u64,
}

/// `min` to `max` bytes.
pub(crate) const fn bytes(min: u64, max: u64) -> Bytes {
    Bytes { min, max }
}

impl Form for Bytes {
    type Value = usize;

    fn expected(&self) -> String {
        format!("a size such as \"64MiB\", {} to {}", human_size(self.min), human_size(self.max))
    }

    fn parse(&self, node: &Node) -> Result<usize, Found> {
        let size = match &node.value {
            Value::Integer(integer) => u64::try_from(*integer).ok(),
            Value::Text(text) | Value::Variable(text) => text.parse::<ByteSize>().ok().map(|size| size.0),
            _ => None,
        };
        size.filter(|size| (self.min..=self.max).contains(size))
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| node.into())
    }

    fn show(&self, value: &usize) -> Option<String> {
        Some(quote(&human_size(*value as u64)))
    }
}

/// The size in the largest binary unit that it is a multiple of, so that nothing is rounded.
fn human_size(size: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let multiple = size >> shift;
        if multiple > 0 && multiple << shift == size {
            return format!("{multiple}{unit}");
        }
    }
    format!("{size}B")
}

/// A URL of one of two schemes.
pub(crate) struct WebUrl {
    schemes: [&'static str; 2],
    example: &'static str,
}

/// `http` or `https`, for Crossbar.
pub(crate) const CROSSBAR: WebUrl = WebUrl { schemes: ["http", "https"], example: "http://crossbar:8000/" };

/// `ws` or `wss`, for blackhole.
pub(crate) const BLACKHOLE: WebUrl = WebUrl { schemes: ["ws", "wss"], example: "ws://blackhole:5555/" };

impl Form for WebUrl {
    type Value = Url;

    fn expected(&self) -> String {
        let [plain, tls] = self.schemes;
        format!("a {plain} or {tls} URL such as {:?}, without user, query or fragment", self.example)
    }

    fn parse(&self, node: &Node) -> Result<Url, Found> {
        let found = || {
            Found(match &node.value {
                // A password may stand in a URL's user part, a token in its query.
                Value::Text(text) | Value::Variable(text) if text.contains(['@', '?', '#']) => {
                    "a URL with user, query or fragment (not shown)".to_owned()
                }
                _ => node.describe(),
            })
        };
        let mut url = Url::parse(text(node).map_err(|_| found())?).map_err(|_| found())?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !plain || !self.schemes.contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
            return Err(found());
        }
        // Paths are joined to Crossbar's URL: without the slash its last segment would be replaced.
        if self.schemes[0] == "http" && !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Ok(url)
    }

    fn show(&self, value: &Url) -> Option<String> {
        Some(quote(value.as_str()))
    }

    fn example(&self) -> Option<String> {
        Some(quote(self.example))
    }
}

/// An address to listen on.
pub(crate) struct Address;

impl Form for Address {
    type Value = SocketAddr;

    fn expected(&self) -> String {
        "an IP address and a port such as \"127.0.0.1:50051\", \"0.0.0.0:50051\" or \"[::]:50051\"".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<SocketAddr, Found> {
        text(node)?.parse().map_err(|_| node.into())
    }

    fn show(&self, value: &SocketAddr) -> Option<String> {
        Some(quote(&value.to_string()))
    }
}

/// Any text but none at all.
pub(crate) struct Text {
    /// What it names, for people.
    pub(crate) what: &'static str,
    /// One.
    pub(crate) example: &'static str,
}

impl Form for Text {
    type Value = String;

    fn expected(&self) -> String {
        // Quotes, because YAML reads 1001 and +15555550100 as numbers.
        format!("{} in quotes", self.what)
    }

    fn parse(&self, node: &Node) -> Result<String, Found> {
        match text(node)? {
            "" => Err(node.into()),
            text => Ok(text.to_owned()),
        }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quote(value))
    }

    fn example(&self) -> Option<String> {
        Some(quote(self.example))
    }
}

/// The path of a file.
pub(crate) struct FilePath {
    /// One.
    pub(crate) example: &'static str,
}

impl Form for FilePath {
    type Value = PathBuf;

    fn expected(&self) -> String {
        "the path of a file".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<PathBuf, Found> {
        match text(node)? {
            "" => Err(node.into()),
            text => Ok(text.into()),
        }
    }

    fn show(&self, value: &PathBuf) -> Option<String> {
        Some(quote(&value.display().to_string()))
    }

    fn example(&self) -> Option<String> {
        Some(quote(self.example))
    }
}

/// One of a few words.
pub(crate) struct Choice<T: 'static>(pub(crate) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Form for Choice<T> {
    type Value = T;

    fn expected(&self) -> String {
        one_of(self.0.iter().map(|(word, _)| *word))
    }

    fn parse(&self, node: &Node) -> Result<T, Found> {
        let text = text(node)?;
        self.0.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| node.into())
    }

    fn show(&self, value: &T) -> Option<String> {
        self.0.iter().find(|(_, each)| each == value).map(|(word, _)| quote(word))
    }

    fn example(&self) -> Option<String> {
        self.0.first().map(|(word, _)| quote(word))
    }
}

fn one_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.map(|word| format!("{word:?}")).collect();
    words.join(" or ")
}

/// A list of texts; in a variable, separated by commas.
pub(crate) struct Texts {
    /// What each of them is, for people.
    pub(crate) what: &'static str,
    /// One of them.
    pub(crate) example: &'static str,
}

impl Form for Texts {
    type Value = Vec<String>;

    fn expected(&self) -> String {
        format!("a list of {}", self.what)
    }

    fn parse(&self, node: &Node) -> Result<Vec<String>, Found> {
        match &node.value {
            Value::List(list) => list.iter().map(|item| text(item).map(str::to_owned)).collect(),
            Value::Variable(text) => Ok(split_commas(text).map(str::to_owned).collect()),
            _ => Err(node.into()),
        }
    }

    fn show(&self, value: &Vec<String>) -> Option<String> {
        let quoted: Vec<String> = value.iter().map(|text| quote(text)).collect();
        Some(format!("[{}]", quoted.join(", ")))
    }

    fn example(&self) -> Option<String> {
        Some(format!("[{}]", quote(self.example)))
    }
}

fn split_commas(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Text that is read by a function of its own.
pub(crate) struct Parsed<T> {
    /// What would be right, for people.
    pub(crate) expected: &'static str,
    /// One, as text.
    pub(crate) example: &'static str,
    /// Reads it.
    pub(crate) parse: fn(&str) -> Option<T>,
    /// Writes it.
    pub(crate) show: fn(&T) -> String,
}

impl<T> Form for Parsed<T> {
    type Value = T;

    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn parse(&self, node: &Node) -> Result<T, Found> {
        (self.parse)(text(node)?).ok_or_else(|| node.into())
    }

    fn show(&self, value: &T) -> Option<String> {
        Some(quote(&(self.show)(value)))
    }

    fn example(&self) -> Option<String> {
        Some(quote(self.example))
    }
}

/// A list whose entries are read by a function of its own; in a variable, separated by commas.
pub(crate) struct Set<T> {
    /// What would be right, for people.
    pub(crate) expected: &'static str,
    /// Reads the entries; the error is the entry that is none.
    pub(crate) parse: fn(&[&str]) -> Result<T, String>,
    /// Writes them.
    pub(crate) show: fn(&T) -> Vec<String>,
}

impl<T> Form for Set<T> {
    type Value = T;

    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn parse(&self, node: &Node) -> Result<T, Found> {
        let texts: Vec<&str> = match &node.value {
            Value::List(list) => list.iter().map(text).collect::<Result<_, _>>()?,
            Value::Variable(text) => split_commas(text).collect(),
            _ => return Err(node.into()),
        };
        (self.parse)(&texts).map_err(|entry| Found(shorten(&entry)))
    }

    fn show(&self, value: &T) -> Option<String> {
        let quoted: Vec<String> = (self.show)(value).iter().map(|text| quote(text)).collect();
        Some(format!("[{}]", quoted.join(", ")))
    }
}

/// A setting that may be left out.
pub(crate) struct Optional<F>(pub(crate) F);

impl<F: Form> Form for Optional<F> {
    type Value = Option<F::Value>;

    fn expected(&self) -> String {
        self.0.expected()
    }

    fn parse(&self, node: &Node) -> Result<Self::Value, Found> {
        self.0.parse(node).map(Some)
    }

    fn show(&self, value: &Self::Value) -> Option<String> {
        value.as_ref().and_then(|value| self.0.show(value))
    }

    fn example(&self) -> Option<String> {
        self.0.example()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_exactly() {
        for (size, text) in
            [(0, "0B"), (1, "1B"), (1024, "1KiB"), (1500, "1500B"), (64 << 20, "64MiB"), (3 << 29, "1536MiB")]
        {
            assert_eq!(human_size(size), text);
            assert_eq!(text.parse::<ByteSize>().unwrap().0, size);
        }
    }

    #[test]
    fn quoted_text_has_no_raw_quotes_or_controls() {
        assert_eq!(quote("a\"b\\c\n"), r#""a\"b\\c\u000A""#);
    }
}
