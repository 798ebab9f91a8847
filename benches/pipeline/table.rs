//! Tables in Markdown: what was measured down the side, the median and every run across.

use crate::proc::DISTURBED;

pub(crate) struct Table {
    title: String,
    runs: usize,
    rows: Vec<(String, Vec<f64>, usize)>,
}

impl Table {
    /// `runs` values will be in each row.
    pub(crate) fn new(title: String, runs: usize) -> Table {
        Table { title, runs, rows: Vec::new() }
    }

    /// With so many digits behind the point.
    pub(crate) fn row(&mut self, name: &str, values: impl IntoIterator<Item = f64>, digits: usize) {
        let values: Vec<f64> = values.into_iter().collect();
        assert_eq!(values.len(), self.runs, "{name}");
        self.rows.push((name.to_owned(), values, digits));
    }

    /// What others used while it ran; marks the runs that they disturbed.
    pub(crate) fn others(&mut self, name: &str, values: impl IntoIterator<Item = f64>) {
        self.row(&format!("foreign CPU, {name}, cores (* disturbed: above {DISTURBED})"), values, 2);
    }

    pub(crate) fn print(&self) {
        println!("\n### {}\n", self.title);
        let runs: String = (1..=self.runs).map(|run| format!(" run {run} |")).collect();
        println!("| | median |{runs}");
        println!("| --- | ---: |{}", " ---: |".repeat(self.runs));
        for (name, values, digits) in &self.rows {
            let foreign = name.starts_with("foreign");
            let cell = |value: &f64| {
                let mark = if foreign && *value > DISTURBED { "*" } else { "" };
                format!(" {}{mark} |", number(*value, *digits))
            };
            let cells: String = values.iter().map(cell).collect();
            println!("| {name} |{}{cells}", cell(&median(values)));
        }
    }
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = ((sorted.len() - 1) / 2, sorted.len() / 2);
    f64::midpoint(sorted[low], sorted[high])
}

/// A whole number with commas.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let comma = |at: usize| at > 0 && (digits.len() - at).is_multiple_of(3);
    digits
        .chars()
        .enumerate()
        .flat_map(|(at, digit)| comma(at).then_some(',').into_iter().chain([digit]))
        .collect()
}

pub(crate) fn number(value: f64, digits: usize) -> String {
    if digits == 0 && value >= 0.0 { grouped(value.round() as u64) } else { format!("{value:.digits$}") }
}
