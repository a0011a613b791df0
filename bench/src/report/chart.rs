//! A small writer of charts as SVG: lines over a logarithmic axis, and bars.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;

/// Colours that the colour-blind can tell apart (Okabe and Ito), and that are legible on white and on black.
const COLOURS: [&str; 4] = ["#0072b2", "#7f7f7f", "#d55e00", "#009e73"];

/// A named row of values; its number decides its colour, so that a name has the same in all charts.
pub struct Series {
    pub name: String,
    pub colour: usize,
    pub points: Vec<Point>,
}

/// A value with its spread, at a place: a number of streams for lines, the number of a group for bars.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub at: f64,
    pub value: f64,
    pub spread: f64,
}

/// Lines; both axes are logarithmic.
pub fn lines(title: &str, across: &str, up: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let across_axis = Log::around(points().map(|point| point.at), LEFT + 20.0, WIDTH - RIGHT - 20.0);
    let up_axis = Log::around(points().map(|point| point.value), HEIGHT - BOTTOM, TOP);
    let mut svg = begin(title, up);
    grid(&mut svg, &up_axis);
    let mut ticks: Vec<f64> = points().map(|point| point.at).collect();
    ticks.sort_unstable_by(f64::total_cmp);
    ticks.dedup();
    for tick in ticks {
        text(&mut svg, across_axis.place(tick), HEIGHT - BOTTOM + 20.0, "middle", &number(tick));
    }
    text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 15.0, "middle", across);
    let mut labels = Labels::default();
    for Series { name, colour, points } in series {
        let colour = COLOURS[colour % COLOURS.len()];
        let places: Vec<(f64, f64)> =
            points.iter().map(|point| (across_axis.place(point.at), up_axis.place(point.value))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2.5"/>"#,
            path.join(" ")
        );
        for (point, (x, y)) in points.iter().zip(&places) {
            whisker(&mut svg, &up_axis, *x, point);
            let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{colour}"/>"#);
        }
        if let Some((x, y)) = places.last() {
            labels.add(&mut svg, x + 10.0, *y, colour, name);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Bars in groups; the axis is logarithmic, since the limit and a naive service lie far apart.
pub fn bars(title: &str, up: &str, groups: &[&str], series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let axis = Log::around(points().map(|point| point.value), HEIGHT - BOTTOM, TOP);
    let mut svg = begin(title, up);
    grid(&mut svg, &axis);
    let width = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
    let bar = width * 0.8 / series.len().max(1) as f64;
    for (index, group) in groups.iter().enumerate() {
        text(&mut svg, LEFT + (index as f64 + 0.5) * width, HEIGHT - BOTTOM + 20.0, "middle", group);
    }
    for (index, Series { name, colour, points }) in series.iter().enumerate() {
        let colour = COLOURS[colour % COLOURS.len()];
        for point in points {
            let x = LEFT + (point.at + 0.1) * width + index as f64 * bar;
            let y = axis.place(point.value);
            let height = HEIGHT - BOTTOM - y;
            let _ = writeln!(
                svg,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{height:.1}" fill="{colour}"/>"#,
                bar * 0.9
            );
            whisker(&mut svg, &axis, x + bar * 0.45, point);
            text(&mut svg, x + bar * 0.45, y - 6.0, "middle", &number(point.value));
        }
        let y = TOP + 10.0 + index as f64 * 22.0;
        let _ = writeln!(
            svg,
            r#"<rect x="{:.1}" y="{:.1}" width="12" height="12" fill="{colour}"/>"#,
            WIDTH - RIGHT + 10.0,
            y - 10.0
        );
        text(&mut svg, WIDTH - RIGHT + 28.0, y, "start", name);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Keeps the names at the ends of lines apart.
#[derive(Default)]
struct Labels {
    taken: Vec<f64>,
}

impl Labels {
    fn add(&mut self, svg: &mut String, x: f64, mut y: f64, colour: &str, name: &str) {
        const APART: f64 = 16.0;
        while let Some(near) = self.taken.iter().find(|taken| (**taken - y).abs() < APART) {
            y = near + APART;
        }
        self.taken.push(y);
        let y = y + 4.0;
        let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" fill="{colour}">{}</text>"#, escape(name));
    }
}

/// A logarithmic axis.
struct Log {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Log {
    /// From a little below the smallest to a little above the largest value.
    fn around(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let (low, high) = values
            .filter(|value| *value > 0.0)
            .fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return Self { low: 1.0, high: 10.0, start, end };
        }
        Self { low: low / 1.3, high: high * 1.3, start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.start + share * (self.end - self.start)
    }

    /// 1, 2 and 5 times the powers of ten that lie on the axis.
    fn ticks(&self) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let all = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(power)));
        all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

fn begin(title: &str, up: &str) -> String {
    let mut svg = format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" "#,
            r#"font-family="sans-serif" font-size="13" role="img" aria-label="{title}">"#,
            "\n",
            "<style>text {{ fill: #24292f }} .grid {{ stroke: #d0d7de }} .whisker {{ stroke: #24292f }} ",
            "@media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .grid {{ stroke: #444c56 }} ",
            ".whisker {{ stroke: #e6edf3 }} }}</style>\n",
        ),
        width = WIDTH,
        height = HEIGHT,
        title = escape(title),
    );
    let _ = writeln!(
        svg,
        r#"<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{}</text>"#,
        escape(title)
    );
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = writeln!(
        svg,
        r#"<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">{}</text>"#,
        escape(up)
    );
    svg
}

fn grid(svg: &mut String, axis: &Log) {
    for tick in axis.ticks() {
        let y = axis.place(tick);
        let _ = writeln!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"/>"#,
            WIDTH - RIGHT
        );
        text(svg, LEFT - 8.0, y + 4.0, "end", &number(tick));
    }
}

fn whisker(svg: &mut String, axis: &Log, x: f64, point: &Point) {
    let (top, bottom) = (axis.place(point.value + point.spread), axis.place(point.value - point.spread));
    let _ =
        writeln!(svg, r#"<line class="whisker" x1="{x:.1}" x2="{x:.1}" y1="{top:.1}" y2="{bottom:.1}"/>"#);
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(content));
}

/// With as many digits as a chart needs.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..0.1 => format!("{value:.3}"),
        0.1..1.0 => format!("{value:.2}"),
        1.0..10.0 if value.fract() > 0.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series() -> Vec<Series> {
        let points = [(1.0, 0.4), (100.0, 0.1)].map(|(at, value)| Point { at, value, spread: 0.01 });
        vec![
            Series { name: "a & b".to_owned(), colour: 0, points: points.to_vec() },
            Series { name: "none".to_owned(), colour: 1, points: Vec::new() },
        ]
    }

    #[test]
    fn charts_have_all_points_and_no_bare_ampersand() {
        let svg = lines("T", "x", "y", &series());
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("a &amp; b") && svg.ends_with("</svg>\n"), "{svg}");
        let svg = bars("T", "y", &["one"], &series()[..1]);
        assert!(svg.matches("<rect").count() == 3 && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn nothing_to_draw_is_drawn() {
        let svg = lines("T", "x", "y", &[]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn an_axis_runs_from_low_to_high() {
        let axis = Log::around([1.0, 100.0].into_iter(), 300.0, 40.0);
        assert!(axis.place(1.0) > axis.place(10.0) && axis.place(10.0) > axis.place(100.0));
        assert_eq!(axis.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
    }
}
