//! What a terminal can do and a pipe cannot: colours, a size. And a pipe can be closed by its reader.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

/// The colours that are used, as ANSI sequences; all empty where colours are off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Palette {
    pub(crate) bold: &'static str,
    pub(crate) dim: &'static str,
    pub(crate) red: &'static str,
    pub(crate) green: &'static str,
    pub(crate) yellow: &'static str,
    pub(crate) cyan: &'static str,
    pub(crate) reset: &'static str,
}

impl Palette {
    /// No colours.
    pub(crate) const PLAIN: Self =
        Self { bold: "", dim: "", red: "", green: "", yellow: "", cyan: "", reset: "" };

    /// The sixteen colours that every terminal maps to its own scheme.
    pub(crate) const ANSI: Self = Self {
        bold: "\x1b[1m",
        dim: "\x1b[2m",
        red: "\x1b[31m",
        green: "\x1b[32m",
        yellow: "\x1b[33m",
        cyan: "\x1b[36m",
        reset: "\x1b[0m",
    };

    /// The palette for an output: colours only where a person looks, and has not asked for none (<https://no-color.org>).
    pub(crate) fn of(output: &impl IsTerminal) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if output.is_terminal() && !unwanted && !dumb { Self::ANSI } else { Self::PLAIN }
    }
}

/// A text that somebody else has chosen (a caller his name, a server its words) as it may stand in a line of ours: a
/// terminal obeys control characters, and a line break would begin a line that looks like ours.
pub(crate) fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Reports a failure on standard error.
pub(crate) fn error(failure: &dyn Display) {
    let stderr = io::stderr();
    let Palette { red, bold, reset, .. } = Palette::of(&stderr);
    // Nobody is left to be told if standard error is closed too.
    let _ = writeln!(stderr.lock(), "{bold}{red}error:{reset} {failure}");
}

/// Says something beside the output proper: on standard error, so that a pipe gets the output alone.
pub(crate) fn note(text: impl Display) {
    let stderr = io::stderr();
    let Palette { dim, reset, .. } = Palette::of(&stderr);
    let _ = writeln!(stderr.lock(), "{dim}# {text}{reset}");
}

/// Whether the reader of our output has gone (`| head`): a reason to stop, no reason to complain.
pub(crate) fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Takes a closed pipe for success.
pub(crate) fn ignore_closed_pipe(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if is_closed_pipe(&error) { Ok(()) } else { Err(error) })
}
