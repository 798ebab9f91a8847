//! Figures as text that Prometheus reads, and as the table of the documentation.
//!
//! Written here and not by a library of metrics: a registry would be a second copy of what `Vitals` holds, to be kept in
//! step with it, and the official one writes OpenMetrics only, which older scrapers and `promtool check metrics` do not
//! read. Every value is taken when somebody asks.
//!
//! Source: Prometheus documentation, "Exposition formats", text format 0.0.4.

use std::fmt::Write as _;

use crate::vitals::{BUCKETS, Histogram};

/// The content type of what [`text`] gives.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows.
    Counter,
    /// It is what it is now.
    Gauge,
    /// How often it was within which bounds.
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// The values of a figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    /// Nothing to tell; the figure is left out.
    None,
    One(f64),
    /// By the value of the one label that it has.
    Each(Vec<(&'static str, f64)>),
    /// The same, with a value of the label that is made at run time.
    Text(String, f64),
    Buckets(Box<Histogram>),
}

impl From<Option<f64>> for Values {
    fn from(value: Option<f64>) -> Values {
        value.map_or(Values::None, Values::One)
    }
}

impl From<bool> for Values {
    fn from(is: bool) -> Values {
        Values::One(f64::from(u8::from(is)))
    }
}

/// A figure: its name, what it is, and how it is read off `S`.
pub(super) struct Figure<S> {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Its only label, or nothing.
    pub(super) label: &'static str,
    pub(super) help: &'static str,
    pub(super) read: fn(&S) -> Values,
}

/// A count as a figure. Exact up to 2^53: bytes of log for centuries.
#[allow(clippy::cast_precision_loss, reason = "nothing here comes near 2^53")]
pub(super) fn count(value: u64) -> f64 {
    value as f64
}

/// All figures that have something to tell.
pub(super) fn text<S>(figures: &[Figure<S>], source: &S) -> String {
    let mut out = String::with_capacity(16 << 10);
    for figure in figures {
        let values = (figure.read)(source);
        if values == Values::None || values == Values::Each(Vec::new()) {
            continue;
        }
        let (name, kind) = (figure.name, figure.kind.name());
        // A String takes everything.
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", escaped(figure.help));
        let _ = write_values(&mut out, figure.name, figure.label, values);
    }
    out
}

fn write_values(out: &mut String, name: &str, label: &str, values: Values) -> std::fmt::Result {
    match values {
        Values::None => Ok(()),
        Values::One(value) => writeln!(out, "{name} {value}"),
        Values::Each(values) => values.iter().try_for_each(|(of, value)| {
            writeln!(out, "{name}{{{label}=\"{}\"}} {value}", escaped(of).replace('"', "\\\""))
        }),
        Values::Text(of, value) => {
            writeln!(out, "{name}{{{label}=\"{}\"}} {value}", escaped(&of).replace('"', "\\\""))
        }
        Values::Buckets(histogram) => {
            let mut total = 0;
            for (index, count) in histogram.counts.iter().enumerate() {
                total += count;
                match BUCKETS.get(index) {
                    Some(bound) => writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}")?,
                    None => writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {total}")?,
                }
            }
            writeln!(out, "{name}_sum {}\n{name}_count {total}", histogram.sum)
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

/// The figures as rows of a Markdown table.
#[cfg(test)]
pub(super) fn rows<S>(figures: &[Figure<S>]) -> String {
    figures.iter().fold(String::new(), |mut out, figure| {
        let name = match figure.label {
            "" => format!("`{}`", figure.name),
            label => format!("`{}{{{label}}}`", figure.name),
        };
        let _ = writeln!(out, "| {name} | {} | {} |", figure.kind.name(), figure.help);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: [Figure<f64>; 6] = [
        Figure {
            name: "a_total",
            kind: Kind::Counter,
            label: "",
            help: "A \\ b.",
            read: |it| Values::One(*it),
        },
        Figure {
            name: "b",
            kind: Kind::Gauge,
            label: "kind",
            help: "B.",
            read: |it| Values::Each(vec![("x", *it), ("y", 1e15)]),
        },
        Figure { name: "c", kind: Kind::Gauge, label: "", help: "C.", read: |_| Values::None },
        Figure {
            name: "d",
            kind: Kind::Gauge,
            label: "v",
            help: "D.",
            read: |_| Values::Text("a\"\\\n".to_owned(), 1.0),
        },
        Figure { name: "e", kind: Kind::Gauge, label: "", help: "E.", read: |it| Values::from(*it > 0.0) },
        Figure {
            name: "f",
            kind: Kind::Histogram,
            label: "",
            help: "F.",
            read: |_| {
                let mut counts = [0; BUCKETS.len() + 1];
                (counts[0], counts[1], counts[BUCKETS.len()]) = (1, 2, 3);
                Values::Buckets(Box::new(Histogram { counts, sum: 0.25 }))
            },
        },
    ];

    #[test]
    fn figures_become_text_that_prometheus_reads() {
        let text = text(&FIGURES, &2.5);
        let expected = "# HELP a_total A \\\\ b.\n# TYPE a_total counter\na_total 2.5\n\
                        # HELP b B.\n# TYPE b gauge\nb{kind=\"x\"} 2.5\nb{kind=\"y\"} 1000000000000000\n\
                        # HELP d D.\n# TYPE d gauge\nd{v=\"a\\\"\\\\\\n\"} 1\n\
                        # HELP e E.\n# TYPE e gauge\ne 1\n\
                        # HELP f F.\n# TYPE f histogram\nf_bucket{le=\"0.005\"} 1\nf_bucket{le=\"0.01\"} 3\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("f_bucket{le=\"+Inf\"} 6\nf_sum 0.25\nf_count 6\n"), "{text}");
    }

    #[test]
    fn the_same_figures_are_rows_of_a_table() {
        let rows = rows(&FIGURES);
        assert!(
            rows.starts_with("| `a_total` | counter | A \\ b. |\n| `b{kind}` | gauge | B. |\n"),
            "{rows}"
        );
    }
}
