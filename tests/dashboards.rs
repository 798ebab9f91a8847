//! Dashboard and alert rules as they lie in `deploy/`: whole, and in step with the documentation. Whether a real relay tells
//! what they read is asked in `tests/it/metrics.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something does not hold"
)]

#[path = "dashboards/expressions.rs"]
mod expressions;

use std::collections::BTreeMap;

use expressions::{Used, dashboard, expressions, figures, of_rules, text_of};

/// Name and type of each figure, as `docs/metrics.md` has them.
fn documented() -> BTreeMap<String, String> {
    let page = text_of("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| {
        let (name, rest) = row.split_once("` | ")?;
        let name = name.split('{').next()?;
        Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
    });
    let rows: BTreeMap<_, _> = rows.filter(|(name, _)| name.contains('_')).collect();
    assert!(rows.len() > 30, "the table was not found");
    rows
}

#[test]
fn names_are_found_wherever_they_stand() {
    let found = figures(
        r#"sum by (job) (rate(walpost_a_total{job="walpost"}[5m])) / -(deriv(process_b[1m]) < 0) or walpost_c"#,
    );
    let expected = [("process_b", false), ("walpost_a_total", true), ("walpost_c", false)];
    let expected = expected.map(|(name, is_rated)| Used { name: name.to_owned(), is_rated });
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
}

/// A counter is read as a rate, and nothing else is.
#[test]
fn each_figure_is_documented_and_read_as_what_it_is() {
    let documented = documented();
    for expression in expressions() {
        let used = figures(&expression.text);
        assert!(!used.is_empty(), "{}: {}", expression.place, expression.text);
        for Used { name, is_rated } in used {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let kind =
                documented.get(&name).or_else(|| documented.get(base?).filter(|kind| *kind == "histogram"));
            let kind = kind.unwrap_or_else(|| panic!("{}: nobody knows {name}", expression.place));
            assert_eq!(kind != "gauge", is_rated, "{}: {name} is a {kind}", expression.place);
        }
    }
}

#[test]
fn each_figure_of_the_relay_is_shown() {
    let shown: Vec<_> = expressions().iter().flat_map(|it| figures(&it.text)).map(|used| used.name).collect();
    // Of no use by themselves.
    let silent = ["walpost_healthy", "walpost_received_lsn"];
    for (name, kind) in documented() {
        let series = if kind == "histogram" { format!("{name}_bucket") } else { name.clone() };
        assert!(shown.contains(&series) || silent.contains(&name.as_str()), "{name} is shown nowhere");
    }
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids: Vec<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = &panel["title"];
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        assert!(
            panel["description"].as_str().is_some_and(|text| text.len() > 10),
            "{title} explains nothing"
        );
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(target["expr"].as_str().unwrap().contains(r#"job=~"$job""#), "{title}");
        }
        let place = &panel["gridPos"];
        let [x, w] = ["x", "w"].map(|key| place[key].as_u64().unwrap());
        assert!(x + w <= 24, "{title} is wider than the screen");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_eq!(
        variables.iter().map(|it| it["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["datasource", "job"]
    );
}

/// As GitHub names the sections of a page.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    headings
        .map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn each_alert_leads_to_its_symptom_and_is_tested() {
    let (alerts, runbooks) = (of_rules("alert"), of_rules("runbook"));
    assert_eq!((alerts.len(), of_rules("expr").len()), (runbooks.len(), runbooks.len()));
    let anchors = anchors(&text_of("docs/troubleshooting.md"));
    for runbook in runbooks {
        let anchor = runbook.strip_prefix("docs/troubleshooting.md#").unwrap_or_else(|| panic!("{runbook}"));
        assert!(
            anchors.iter().any(|known| known == anchor),
            "there is no section {anchor} among {anchors:?}"
        );
    }
    let tests = text_of("deploy/prometheus/alerts_test.yaml");
    for alert in alerts {
        let named = format!("alertname: {alert}\n");
        let mut raised = tests.split(&named).skip(1);
        assert!(raised.any(|rest| rest.trim_start().starts_with("exp_alerts:")), "no test raises {alert}");
    }
}
