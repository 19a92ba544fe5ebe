//! The table of figures and their bounds.

use std::path::PathBuf;

use serde::Serialize;

#[derive(Serialize)]
pub struct Row {
    what: String,
    locations: usize,
    figure: f64,
    bound: Option<f64>,
    unit: &'static str,
}

#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub fn new() -> Self {
        println!("{:<52} {:>6} {:>12} {:>12} {:>6}", "measurement", "N", "figure", "bound", "ratio");
        Self::default()
    }

    pub fn add(&mut self, what: &str, locations: usize, figure: f64, bound: Option<f64>, unit: &'static str) {
        let digits = if figure.fract() == 0.0 && unit == "calls" { 0 } else { 3 };
        let text = |value: f64| format!("{value:.digits$} {unit}");
        let ratio = bound.map_or_else(String::new, |bound| format!("{:.2}", figure / bound));
        println!(
            "{what:<52} {locations:>6} {:>12} {:>12} {ratio:>6}",
            text(figure),
            bound.map(text).unwrap_or_default()
        );
        self.rows.push(Row { what: what.to_owned(), locations, figure, bound, unit });
    }

    /// The growth exponent of a figure: 1 is linear.
    pub fn exponent(&mut self, what: &str, sizes: &[usize], figures: &[f64]) {
        let points: Vec<(f64, f64)> =
            sizes.iter().zip(figures).map(|(n, figure)| (number(*n).ln(), figure.max(1e-9).ln())).collect();
        let count = number(points.len());
        let (mean_x, mean_y) =
            (points.iter().map(|(x, _)| x).sum::<f64>() / count, points.iter().map(|(_, y)| y).sum::<f64>() / count);
        let over = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>();
        let under = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
        let largest = sizes.last().copied().unwrap_or_default();
        self.add(&format!("{what}, growth exponent"), largest, over / under, Some(1.05), "");
    }

    /// Writes `target/bench.json`, to compare with other runs.
    pub fn save(&self) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bench.json");
        let text = serde_json::to_string_pretty(&self.rows).expect("plain data");
        std::fs::write(&path, text).expect("write to target/");
        println!("saved to target/bench.json");
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls are small")]
pub fn number(count: usize) -> f64 {
    count as f64
}
