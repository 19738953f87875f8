//! A picture over time as SVG: labels on the left, time below, bars, bands and curves between.

use std::fmt::Write;

const LEFT: f64 = 90.0;
const WIDTH: f64 = 950.0;
const TOP: f64 = 24.0;
const BELOW: f64 = 24.0;

/// Grows by what is drawn; heights count from its upper border.
pub(crate) struct Picture {
    body: String,
    height: f64,
    end_ms: u64,
    /// Names of curves that were drawn.
    legend: usize,
}

/// A text as it may stand in SVG and HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Picture {
    pub(crate) fn new(title: &str, height: f64, end_ms: u64) -> Self {
        let mut picture = Self { body: String::new(), height, end_ms, legend: 0 };
        picture.text(0.0, -10.0, "start", title);
        let step_s = [1, 2, 5, 10, 30, 60, 300, 600, 3600].into_iter().find(|step| end_ms / 1000 / step <= 20);
        for second in (0..=end_ms / 1000).step_by(step_s.unwrap_or(36_000) as usize) {
            let x = picture.x(second * 1000);
            picture.line(x, 0.0, x, height);
            picture.text(x, height + 16.0, "middle", &format!("{second} s"));
        }
        picture
    }

    /// A name on the left.
    pub(crate) fn label(&mut self, y: f64, text: &str) {
        self.text(-8.0, y, "end", text);
    }

    /// A horizontal line with its value.
    pub(crate) fn grid(&mut self, y: f64, text: &str) {
        self.line(0.0, y, WIDTH, y);
        self.label(y + 4.0, text);
    }

    /// A filled piece of time, which tells `title` when it is pointed at.
    pub(crate) fn bar(&mut self, start_ms: u64, end_ms: u64, y: f64, height: f64, colour: &str, title: &str) {
        if height > 0.0 {
            self.rect((start_ms, end_ms), (y, height), &format!("fill=\"{colour}\""), title);
        }
    }

    /// A light band behind curves.
    pub(crate) fn shade(&mut self, start_ms: u64, end_ms: u64, height: f64, colour: &str, title: &str) {
        self.rect((start_ms, end_ms), (0.0, height), &format!("fill=\"{colour}\" opacity=\"0.12\""), title);
    }

    /// A small white text on a bar.
    pub(crate) fn mark(&mut self, at_ms: u64, y: f64, text: &str) {
        let x = self.x(at_ms) + 2.0;
        write!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"9\" fill=\"#fff\">{}</text>", escape(text)).ok();
    }

    /// A line through points in time, named at the upper right.
    pub(crate) fn curve(&mut self, points: impl Iterator<Item = (u64, f64)>, colour: &str, name: &str) {
        let points: String = points.map(|(at_ms, y)| format!("{:.1},{y:.1} ", self.x(at_ms))).collect();
        write!(self.body, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>")
            .ok();
        self.legend += 1;
        let x = WIDTH - 70.0 * self.legend as f64;
        write!(self.body, "<text x=\"{x}\" y=\"-10\" fill=\"{colour}\" font-weight=\"bold\">{name}</text>").ok();
    }

    pub(crate) fn finish(self) -> String {
        let (width, height) = (LEFT + WIDTH + 20.0, TOP + self.height + BELOW);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"system-ui,sans-serif\" \
             font-size=\"11\"><g transform=\"translate({LEFT},{TOP})\">{}</g></svg>\n",
            self.body
        )
    }

    fn x(&self, at_ms: u64) -> f64 {
        WIDTH * at_ms as f64 / self.end_ms.max(1) as f64
    }

    fn rect(&mut self, (start_ms, end_ms): (u64, u64), (y, height): (f64, f64), fill: &str, title: &str) {
        let (x, end) = (self.x(start_ms), self.x(end_ms.min(self.end_ms)));
        let (width, title) = ((end - x).max(1.0), escape(title));
        write!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" {fill}><title>{title}</title></rect>"
        )
        .ok();
    }

    fn line(&mut self, x: f64, y: f64, to_x: f64, to_y: f64) {
        write!(self.body, "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\" stroke=\"#ddd\"/>").ok();
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escape(text);
        write!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#555\">{text}</text>").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_runs_from_left_to_right_and_texts_are_escaped() {
        let mut picture = Picture::new("a < b", 100.0, 10_000);
        picture.bar(0, 5_000, 0.0, 10.0, "#123456", "\"quoted\"");
        let svg = picture.finish();
        assert!(svg.contains("a &lt; b") && svg.contains("&quot;quoted&quot;"));
        assert!(svg.contains("width=\"475.0\""), "half of the time is half of the width: {svg}");
    }
}
