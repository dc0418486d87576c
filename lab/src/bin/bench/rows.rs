//! The table.

use serde::Serialize;

/// One bar and what was measured.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What, and on which engine.
    pub what: String,
    /// Ours, in `unit`.
    pub ours: f64,
    /// The least that can be done with the same engine, where there is such a thing.
    pub floor: Option<f64>,
    /// The peer's, measured in the same run.
    pub peer: Option<f64>,
    /// Of the three before.
    pub unit: &'static str,
    /// What is held against the bar: ours, or ours / floor.
    pub result: f64,
    /// The same for the peer.
    pub peer_result: Option<f64>,
    /// At most.
    pub bar: f64,
}

impl Row {
    /// A row whose result is a figure of its own.
    pub fn of(what: String, unit: &'static str, ours: f64, peer: Option<f64>, bar: f64) -> Self {
        Self { what, ours, floor: None, peer, unit, result: ours, peer_result: peer, bar }
    }

    /// A row whose result is a ratio.
    pub fn ratio(what: String, unit: &'static str, (ours, floor): (f64, f64), peer: Option<f64>, bar: f64) -> Self {
        let peer_result = peer.map(|peer| peer / floor);
        Self { what, ours, floor: Some(floor), peer, unit, result: ours / floor, peer_result, bar }
    }

    /// True where the bar is met.
    pub fn is_met(&self) -> bool {
        self.result <= self.bar
    }
}

/// The rows as text in columns.
pub fn table(rows: &[Row]) -> String {
    let number = |value: f64| if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    let or_not = |value: Option<f64>| value.map_or("-".to_owned(), number);
    let mut lines = vec![["what", "unit", "ours", "floor", "peer", "result", "peer's", "bar", ""].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let met = if row.is_met() { "met" } else { "NOT MET" };
        [
            row.what.clone(),
            row.unit.to_owned(),
            number(row.ours),
            or_not(row.floor),
            or_not(row.peer),
            number(row.result),
            or_not(row.peer_result),
            number(row.bar),
            met.to_owned(),
        ]
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..9).map(width).collect();
    let line = |cells: &[String; 9]| {
        let cells = cells.iter().zip(&widths).enumerate();
        let padded = cells.map(
            |(at, (cell, &width))| {
                if at < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            },
        );
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}
