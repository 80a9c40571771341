//! The speeds as a bar chart in SVG, on a ground of its own so that it can be read on a light page and on a dark one.

use std::fmt::Write as _;

/// One bar.
pub struct Bar {
    pub label: String,
    /// In bytes a second.
    pub speed: f64,
    /// What is written behind the bar.
    pub note: String,
    /// Drawn in the colour of the pair.
    pub ours: bool,
}

const WIDTH: u32 = 760;
const LABELS: u32 = 230;
const BAR_LENGTH: f64 = 370.0;
const TOP: u32 = 64;
const STEP: u32 = 32;
const BAR_HEIGHT: u32 = 20;

/// The chart, with bars from the top in the order given.
pub fn svg(title: &str, subtitle: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.speed).fold(f64::MIN_POSITIVE, f64::max);
    let count = u32::try_from(bars.len()).unwrap_or_default();
    let height = TOP + count * STEP + 12;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif" font-size="14">
<title>{title}</title>
<rect width="100%" height="100%" rx="8" fill="#fbfbf8" stroke="#d0d0c8"/>
<text x="20" y="28" font-size="17" font-weight="bold" fill="#222">{title}</text>
<text x="20" y="48" font-size="12" fill="#666">{subtitle}</text>
"##,
        title = escape(title),
        subtitle = escape(subtitle),
    );
    for (bar, row) in bars.iter().zip(0..) {
        let (top, length) = (TOP + row * STEP, bar.speed / longest * BAR_LENGTH);
        let (baseline, colour) = (top + 15, if bar.ours { "#1f6f8b" } else { "#b4b4aa" });
        let (label, note) = (escape(&bar.label), escape(&bar.note));
        let (labels_end, notes_start) = (LABELS - 10, f64::from(LABELS) + length + 8.0);
        let _ = write!(
            svg,
            r##"<text x="{labels_end}" y="{baseline}" text-anchor="end" fill="#222">{label}</text>
<rect x="{LABELS}" y="{top}" width="{length:.1}" height="{BAR_HEIGHT}" rx="2" fill="{colour}"/>
<text x="{notes_start:.1}" y="{baseline}" fill="#444">{note}</text>
"##
        );
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
