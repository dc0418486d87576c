//! The table of results.

use serde::Serialize;

/// One bar and its measurement.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What is measured, and on which engine.
    pub what: String,
    /// Our figure, in `unit`.
    pub ours: f64,
    /// The least that can be done with the same engine, if there is such a figure.
    pub floor: Option<f64>,
    /// The peer's figure, measured in the same run.
    pub peer: Option<f64>,
    /// The unit of `ours`, `floor` and `peer`.
    pub unit: &'static str,
    /// The figure that is compared with the bar: ours, or ours / floor.
    pub result: f64,
    /// The same for the peer.
    pub peer_result: Option<f64>,
    /// The highest result that is allowed; `None` for a figure that only explains another.
    pub bar: Option<f64>,
}

impl Row {
    /// A row whose result is our figure itself.
    pub fn of(what: String, unit: &'static str, ours: f64, peer: Option<f64>, bar: f64) -> Self {
        Self {
            what,
            ours,
            floor: None,
            peer,
            unit,
            result: ours,
            peer_result: peer,
            bar: Some(bar),
        }
    }

    /// A row whose result is a ratio.
    pub fn ratio(
        what: String,
        unit: &'static str,
        (ours, floor): (f64, f64),
        peer: Option<f64>,
        bar: Option<f64>,
    ) -> Self {
        let peer_result = peer.map(|peer| peer / floor);
        Self { what, ours, floor: Some(floor), peer, unit, result: ours / floor, peer_result, bar }
    }

    /// True if the bar is met.
    pub fn is_met(&self) -> bool {
        self.bar.is_none_or(|bar| self.result <= bar)
    }
}

/// The rows as text in columns.
pub fn table(rows: &[Row]) -> String {
    let number =
        |value: f64| if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    let or_not = |value: Option<f64>| value.map_or("-".to_owned(), number);
    let mut lines = vec![
        ["what", "unit", "ours", "floor", "peer", "result", "peer's", "bar", ""].map(str::to_owned),
    ];
    lines.extend(rows.iter().map(|row| {
        let met = match row.bar {
            None => "",
            Some(_) if row.is_met() => "met",
            Some(_) => "NOT MET",
        };
        [
            row.what.clone(),
            row.unit.to_owned(),
            number(row.ours),
            or_not(row.floor),
            or_not(row.peer),
            number(row.result),
            or_not(row.peer_result),
            or_not(row.bar),
            met.to_owned(),
        ]
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..9).map(width).collect();
    let line =
        |cells: &[String; 9]| {
            let cells = cells.iter().zip(&widths).enumerate();
            let padded = cells.map(|(at, (cell, &width))| {
                if at < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}
