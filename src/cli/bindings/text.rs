//! The explanations for people: paragraphs that fit the terminal.

use std::fmt::Write;

use super::{
    super::terminal::Palette,
    explain::{Cover, Explanation, Meaning},
};
use crate::binding::catalogue::TYPES;

/// Where lines are broken; a narrower terminal breaks them itself.
const WIDTH: usize = 100;

/// The explanation of some bindings.
pub(super) fn explanation(explanation: &Explanation, palette: Palette) -> String {
    let Palette { bold, red, reset, .. } = palette;
    let mut text = String::new();
    for explained in &explanation.bindings {
        let _ = writeln!(text, "{bold}{}{reset}", explained.requested.escape_debug());
        if let Some(why) = &explained.refused {
            let _ = writeln!(text, "  {red}refused{reset}");
            paragraph(&mut text, "    ", "    ", why);
        }
        if let Some(meaning) = &explained.meaning {
            self::meaning(&mut text, meaning, palette);
        }
        text.push('\n');
    }
    if explanation.bindings.iter().filter(|explained| explained.meaning.is_some()).count() > 1 {
        let _ = writeln!(text, "{bold}Together{reset}");
        covers(&mut text, &explanation.upstream, palette);
        text.push('\n');
    }
    text
}

fn meaning(text: &mut String, meaning: &Meaning, palette: Palette) {
    let Palette { dim, yellow, reset, .. } = palette;
    paragraph(text, "  ", "  ", meaning.description);
    if meaning.crosses_tenants {
        let _ = writeln!(text, "  {yellow}crosses tenants{reset}");
    }
    let _ = writeln!(text, "  {dim}lets through events with routing keys such as{reset}");
    for key in &meaning.matches {
        let _ = writeln!(text, "    {key}");
    }
    covers(text, &meaning.upstream, palette);
    if meaning.month_bound {
        paragraph(
            text,
            "  ",
            "  ",
            "Bound to the month: expect a gap (MONTH_TURN) of some seconds when the month turns.",
        );
    }
    let _ = writeln!(text, "  {dim}to know{reset}");
    for caveat in &meaning.caveats {
        paragraph(text, "    - ", "      ", caveat);
    }
}

fn covers(text: &mut String, covers: &[Cover], palette: Palette) {
    let Palette { dim, reset, .. } = palette;
    let _ = writeln!(text, "  {dim}is sent upstream{reset}");
    for Cover { flavour, sent } in covers {
        if sent.is_empty() {
            let _ = writeln!(text, "    {flavour:4} nothing: this flavour has no such events");
        }
        for (at, sent) in sent.iter().enumerate() {
            let flavour = if at == 0 { flavour } else { "" };
            let wider = if sent.wider { "  (wider: filtered here)" } else { "" };
            let month = if sent.month_bound { "  (bound again each month)" } else { "" };
            let _ = writeln!(text, "    {flavour:4} {}{wider}{month}", sent.binding);
        }
    }
}

/// The catalogue.
pub(super) fn list(palette: Palette) -> String {
    let Palette { bold, dim, cyan, yellow, reset, .. } = palette;
    let mut text = String::new();
    for entry in TYPES {
        let flavours: Vec<_> = entry.flavours.iter().map(|flavour| flavour.as_str()).collect();
        let opt_in = if entry.requires_opt_in { "  off unless upstream.opt_in has it" } else { "" };
        let _ = writeln!(
            text,
            "{bold}{}{reset}  {dim}{}{reset}{yellow}{opt_in}{reset}",
            entry.template,
            flavours.join(", ")
        );
        paragraph(&mut text, "  ", "  ", entry.description);
        for example in entry.examples {
            let _ = writeln!(text, "    {cyan}{example}{reset}");
        }
        text.push('\n');
    }
    text.push_str("`hawking bindings explain BINDING` says more of each.\n");
    text
}

/// Breaks a text into lines, the first of which begins with `first` and the others with `further`.
fn paragraph(text: &mut String, first: &str, further: &str, words: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in words.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = further.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::Flavour;

    fn explain(bindings: &[&str]) -> String {
        let bindings: Vec<_> = bindings.iter().map(|&binding| binding.to_owned()).collect();
        explanation(&Explanation::of(&bindings, &Flavour::ALL), Palette::PLAIN)
    }

    #[test]
    fn lines_are_broken_and_nothing_is_lost() {
        let long = "word ".repeat(60);
        let mut text = String::new();
        paragraph(&mut text, "    - ", "      ", &long);
        assert!(text.lines().count() > 2 && text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 60);
        assert!(text.lines().skip(1).all(|line| line.starts_with("      word")), "{text}");
    }

    #[test]
    fn says_what_is_sent_where() {
        let text = explain(&["conference.event.*.*"]);
        for line in ["    k4   conference.event.#.*\n", "    k5   conference.event.*.#.*\n"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("Together"), "{text}");
        assert!(explain(&["call.*.*", "stream.*.*"]).contains("Together\n"));
    }

    #[test]
    fn a_refused_text_cannot_break_the_terminal() {
        let text = explain(&["call.\u{1b}[31m\n"]);
        assert!(!text.contains('\u{1b}') && text.contains("refused"), "{text:?}");
    }

    #[test]
    fn the_list_has_every_example() {
        let text = list(Palette::PLAIN);
        for example in TYPES.iter().flat_map(|entry| entry.examples) {
            assert!(text.contains(&format!("    {example}\n")), "{example}");
        }
    }
}
