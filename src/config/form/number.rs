//! Numbers: flags, counts, shares, durations, sizes. Each has its bounds.

use std::{marker::PhantomData, time::Duration};

use bytesize::ByteSize;

use super::{Form, Found, quote, text};
use crate::config::tree::{Node, Value};

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
}
