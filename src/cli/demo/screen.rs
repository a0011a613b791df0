//! The live view on a terminal: drawn in place, and only the lines that changed, so that text can be selected meanwhile.
//!
//! The alternate screen is used, so that what was on the terminal before is there again afterwards.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use terminal_size::{Height, Width, terminal_size};

use super::board::{Board, Call, Phase};
use crate::{
    cli::{tail::human, terminal::Palette},
    proto::UpstreamState,
};

/// Rows that the table should have.
const ROOM: usize = 16;
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// What the terminal does with a line that is too long.
const CUT_OFF: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// What stands above the table.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) full: Vec<String>,
    /// For terminals on which the full one would leave too little room for the table.
    pub(super) short: Vec<String>,
}

impl Head {
    /// The lines for a terminal of this size, and how many rows they take on it.
    fn lines(&self, width: usize, height: usize) -> (&[String], usize) {
        let rows =
            |lines: &[String]| lines.iter().map(|line| visible(line).div_ceil(width.max(1)).max(1)).sum();
        let full: usize = rows(&self.full);
        if full + ROOM <= height { (&self.full, full) } else { (&self.short, rows(&self.short)) }
    }
}

/// The terminal, taken over; dropping it gives the terminal back.
pub(super) struct Screen {
    palette: Palette,
    /// What stands above the table and never changes. Lines may be longer than the terminal is wide: the terminal wraps
    /// them, so that they are still one line when they are copied.
    head: Head,
    size: (usize, usize),
    drawn: Vec<String>,
}

impl Screen {
    /// Takes the terminal over.
    pub(super) fn enter(palette: Palette, head: Head) -> io::Result<Self> {
        let mut out = io::stdout().lock();
        out.write_all(ENTER.as_bytes())?;
        out.flush()?;
        Ok(Self { palette, head, size: (0, 0), drawn: Vec::new() })
    }

    /// Shows the board as it is now.
    pub(super) fn draw(&mut self, board: &Board, now: Instant) -> io::Result<()> {
        let size = terminal_size()
            .map_or((80, 24), |(Width(width), Height(height))| (usize::from(width), usize::from(height)));
        let (width, height) = size;
        let (head, above) = self.head.lines(width, height);
        let mut output = String::new();
        if size != self.size {
            // Begin anew: the terminal has moved the lines about.
            self.size = size;
            self.drawn.clear();
            output.push_str("\x1b[2J\x1b[H");
            output.push_str(&head.join("\r\n"));
        }
        // The last column stays free: a full line, and the clearing of its rest would take its last character.
        let lines = table(board, now, width.saturating_sub(1), height.saturating_sub(above), self.palette);
        output.push_str(CUT_OFF);
        for (row, line) in lines.iter().enumerate() {
            if self.drawn.get(row) != Some(line) {
                output.push_str(&format!("\x1b[{};1H{line}\x1b[K", above + row + 1));
            }
        }
        if lines.len() < self.drawn.len() {
            output.push_str(&format!("\x1b[{};1H\x1b[J", above + lines.len() + 1));
        }
        self.drawn = lines;
        output.push_str(WRAP);
        let mut out = io::stdout().lock();
        out.write_all(output.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        // The terminal may be gone; there is nobody to tell.
        let _ = out.write_all(LEAVE.as_bytes());
        let _ = out.flush();
    }
}

/// The changing part: at most `height` lines, none wider than `width`.
fn table(board: &Board, now: Instant, width: usize, height: usize, palette: Palette) -> Vec<String> {
    let Palette { bold, dim, reset, green, red, yellow, .. } = palette;
    let upstream = human::word(board.upstream);
    let colour = match board.upstream {
        UpstreamState::Live => green,
        UpstreamState::Down => red,
        UpstreamState::Connecting | UpstreamState::Degraded | UpstreamState::Unspecified => yellow,
    };
    let mut lines = vec![format!(
        "{bold}Calls in progress: {}{reset}   calls: {}   events: {}   gaps: {}   upstream: {colour}{upstream}{reset}",
        board.in_progress(),
        board.total_calls,
        board.total_events,
        board.gaps,
    )];

    // The columns share what the fixed ones leave.
    let free = width.saturating_sub(8 + 2 + 10 + 2 + 7 + 2 + 2 + 2);
    let (from, to) = (free * 40 / 100, free * 28 / 100);
    let id = free - from - to;
    lines.push(format!(
        "{dim}{:<8}  {:<10}  {:>7}  {}  {}  {}{reset}",
        "AGE",
        "STATE",
        "TALK",
        pad("FROM", from),
        pad("TO", to),
        fit("CALL ID", id)
    ));
    // Calls come first.
    let left = height.saturating_sub(lines.len() + board.calls.len() + 2);
    let recent = board.recent.len().min(height / 4).min(left);
    let room = height.saturating_sub(lines.len() + if recent == 0 { 0 } else { recent + 2 });
    let hidden = board.calls.len().saturating_sub(room);
    // Of too many, the newest are shown.
    for call in board.calls.iter().skip(if hidden == 0 { 0 } else { hidden + 1 }) {
        lines.push(row(call, now, (from, to, id), palette));
    }
    if hidden > 0 {
        lines.push(format!("{dim}and {} more{reset}", hidden + 1));
    }
    if recent > 0 {
        lines.push(String::new());
        lines.push(format!("{bold}Also on this account{reset}"));
        lines.extend(
            board
                .recent
                .iter()
                .rev()
                .take(recent)
                .rev()
                .map(|line| format!("{dim}{}{reset}", fit(line, width))),
        );
    }
    lines.truncate(height);
    lines
}

fn row(call: &Call, now: Instant, (from, to, id): (usize, usize, usize), palette: Palette) -> String {
    let Palette { dim, reset, cyan, green, yellow, red, .. } = palette;
    let (colour, state, until) = match &call.phase {
        Phase::Ringing => (cyan, "ringing", now),
        Phase::Talking => (green, "talking", now),
        Phase::OnHold => (yellow, "on hold", now),
        Phase::Ended { at, cause } if cause == "NORMAL_CLEARING" => (dim, "ended", *at),
        Phase::Ended { at, cause } => (
            red,
            match cause.as_str() {
                "USER_BUSY" => "busy",
                "NO_ANSWER" => "no answer",
                "ORIGINATOR_CANCEL" => "gave up",
                _ => "failed",
            },
            *at,
        ),
    };
    let talk = call.answered.map(|answered| clock(until.duration_since(answered))).unwrap_or_default();
    format!(
        "{}  {colour}{state:<10}{reset}  {talk:>7}  {}  {}  {dim}{}{reset}",
        pad(&clock(until.duration_since(call.began)), 8),
        pad(&call.from, from),
        pad(&call.to, to),
        fit(&call.id, id)
    )
}

/// `0:07`, `12:30`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// At most `width` characters; what does not fit ends with a dot or two.
fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(2)).chain("..".chars().take(width)).collect()
}

/// Exactly `width` characters.
fn pad(text: &str, width: usize) -> String {
    format!("{:<width$}", fit(text, width))
}

/// How many columns a line takes, without its colour sequences.
fn visible(line: &str) -> usize {
    let mut columns = 0;
    let mut in_sequence = false;
    for character in line.chars() {
        match character {
            '\x1b' => in_sequence = true,
            'm' if in_sequence => in_sequence = false,
            _ if in_sequence => {}
            _ => columns += 1,
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        cli::tail::human::Lines,
        proto::{Event, EventCategory, SubscribeResponse, event::Payload, subscribe_response::Kind},
    };

    fn board(calls: usize) -> Board {
        let mut board = Board::new(Lines::new(Palette::PLAIN));
        for index in 0..calls {
            let payload = json!({"caller_id_name": "Ada Lovelace", "caller_id_number": "1001", "request": "+12125550100@x"});
            let event = Event {
                name: "CHANNEL_CREATE".into(),
                category: EventCategory::Call.into(),
                call_id: format!("{index}-3c5fa0d1-77aa-4bbb-8ccc-0123456789ab@192.0.2.10"),
                payload: Some(Payload::JsonPayload(payload.to_string())),
                ..Event::default()
            };
            board.fold(&SubscribeResponse { kind: Some(Kind::Event(event)) }, Instant::now());
        }
        board
    }

    #[test]
    fn nothing_is_wider_or_higher_than_the_terminal() {
        for calls in [0, 3, 50] {
            for (width, height) in [(200, 50), (80, 24), (40, 10), (20, 3), (1, 1), (0, 0)] {
                let lines = table(&board(calls), Instant::now(), width, height, Palette::ANSI);
                assert!(lines.len() <= height, "{calls} calls in {width}x{height}: {} lines", lines.len());
                // Below 40 columns the fixed columns alone do not fit; the terminal cuts them off.
                if width >= 80 {
                    assert!(lines.iter().all(|line| visible(line) <= width), "{width}x{height}: {lines:#?}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let lines = table(&board(50), Instant::now(), 80, 12, Palette::PLAIN);
        assert_eq!(lines.len(), 12);
        assert_eq!(lines[11], "and 41 more");
        assert!(lines[2].contains("ringing") && lines[2].contains("Ada Lovelace"), "{}", lines[2]);
    }

    #[test]
    fn a_text_of_others_cannot_break_the_terminal() {
        let nasty = "Eve\u{1b}[2J\u{9b}31m\r\nCalls in progress: 0";
        let mut board = board(0);
        let payload = json!({"caller_id_name": nasty, "callee_id_number": nasty, "hangup_cause": nasty});
        for (name, category) in [
            ("CHANNEL_CREATE", EventCategory::Call),
            ("CHANNEL_DESTROY", EventCategory::Call),
            (nasty, EventCategory::Object),
        ] {
            let event = Event {
                name: name.into(),
                category: category.into(),
                call_id: nasty.into(),
                payload: Some(Payload::JsonPayload(payload.to_string())),
                ..Event::default()
            };
            board.fold(&SubscribeResponse { kind: Some(Kind::Event(event)) }, Instant::now());
        }
        board.say(nasty);
        let lines = table(&board, Instant::now(), 200, 50, Palette::PLAIN);
        assert!(lines.iter().filter(|line| line.contains("Eve")).count() == 3, "{lines:#?}");
        assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:#?}");
        assert_eq!(board.in_progress(), 0, "it is the same call by the same id");
    }

    #[test]
    fn colours_take_no_room() {
        assert_eq!(visible("\x1b[1mbold\x1b[0m and \x1b[31mred\x1b[0m"), 12);
    }
}
