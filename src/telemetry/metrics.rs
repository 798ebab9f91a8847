//! The figures of a relay, as `/metrics` tells them. No label has more values than its list here.

use std::time::{Duration, SystemTime};

use super::exposition::{self, Figure, Kind, Values, count};
use super::{health, process};
use crate::vitals::{DeskSight, SlotSight, State, Vitals};

/// What the server said longer ago is left out: a figure that is missing tells more than one that is old. A relay that
/// streams hears of the slot every two seconds, one that stands by or tries again every five to ten.
const SLOT_STALE: Duration = Duration::from_secs(20);
/// A table that is locked is asked again after a minute.
const DESK_STALE: Duration = Duration::from_secs(180);

const STATES: [State; 6] =
    [State::Starting, State::StandingBy, State::Streaming, State::Retrying, State::Draining, State::Stopped];

const WAL_STATUSES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

/// What one answer is made of.
struct Sight<'a> {
    vitals: &'a Vitals,
    ready: health::Ready,
    healthy: bool,
    slot: Option<SlotSight>,
    desk: DeskSight,
}

/// The answer to `/metrics`.
pub(super) fn text(vitals: &Vitals) -> String {
    let sight = Sight {
        vitals,
        ready: health::ready(vitals),
        healthy: health::healthy(vitals).good,
        slot: vitals.slot(SLOT_STALE),
        desk: vitals.desk(DESK_STALE).unwrap_or_default(),
    };
    exposition::text(&figures(), &sight)
}

macro_rules! figures {
    ($($kind:ident $name:literal $({$label:literal})? $help:literal = $read:expr;)*) => {
        [$(Figure {
            name: $name,
            kind: Kind::$kind,
            label: concat!($($label)?),
            help: $help,
            read: $read,
        }),*]
    };
}

/// The order is that of the documentation: is it flowing, how late, how much room is left, what is wrong.
fn figures<'a>() -> Vec<Figure<Sight<'a>>> {
    let mut all = Vec::from(state_figures());
    all.extend(flow_figures());
    all.extend(slot_figures());
    all.extend(trouble_figures());
    all.extend(process_figures());
    all
}

fn state_figures<'a>() -> [Figure<Sight<'a>>; 6] {
    figures! {
        Gauge "walpost_build_info" {"version"} "1; the label tells the version."
            = |_| Values::Text(env!("CARGO_PKG_VERSION").to_owned(), 1.0);
        Gauge "walpost_state" {"state"} "1 for the state that the relay is in, 0 for the others."
            = |it| each(STATES.map(label), label(it.vitals.phase().state));
        Gauge "walpost_ready" "Whether /readyz says yes: records flow, or would if another relay did not hold the slot."
            = |it| it.ready.good.into();
        Gauge "walpost_healthy" "Whether /healthz says yes: the loop moves."
            = |it| it.healthy.into();
        Gauge "walpost_stalled" {"stage"} "1 for a stage that stands still although the relay streams, 0 for the others."
            = |it| each(health::STAGES.map(underscored), it.ready.stage.map_or("", underscored));
        Gauge "walpost_broker_reachable" "0 while no Kafka broker can be reached."
            = |it| it.vitals.broker_fault().is_none().into();
    }
}

fn flow_figures<'a>() -> [Figure<Sight<'a>>; 7] {
    figures! {
        Counter "walpost_published_records_total" "Records that Kafka has acknowledged."
            = |it| Values::One(count(it.vitals.published()));
        Histogram "walpost_publish_latency_seconds" "Time from a row's commit, by the server's clock, to Kafka's \
            acknowledgement; records that were handed over together count with that of the oldest."
            = |it| Values::Buckets(Box::new(it.vitals.latency()));
        Gauge "walpost_lag_seconds" "Age of the commit that is being published; 0 when nothing is in flight, missing while \
            this relay does not read the log."
            = |it| it.ready.lag_seconds.into();
        Gauge "walpost_in_flight_records" "Records that Kafka has not acknowledged yet."
            = |it| Values::One(count(it.vitals.in_flight()));
        Gauge "walpost_in_flight_bytes" "Memory that those take."
            = |it| Values::One(count(it.vitals.tally().in_flight_bytes.get()));
        Gauge "walpost_received_lsn" "Position in the log up to which the relay has read, in bytes."
            = |it| position(it.vitals.received().0);
        Gauge "walpost_confirmed_lsn" "Position that it has confirmed to the server, in bytes."
            = |it| position(it.vitals.last_confirmed().0);
    }
}

/// All but the first are missing once the server has not told of the slot for [`SLOT_STALE`].
fn slot_figures<'a>() -> [Figure<Sight<'a>>; 7] {
    figures! {
        Gauge "walpost_slot_seen_timestamp_seconds" "When the server told of the slot last, in seconds since 1970; once that is \
            20 seconds ago, the six figures below are missing."
            = |it| it.vitals.since_slot_seen().and_then(seconds_of).into();
        Gauge "walpost_server_wal_lsn" "Position at which the server's log ends, in bytes."
            = |it| of_slot(it, |slot| Some(slot.current.0));
        Gauge "walpost_lag_bytes" "Log behind the position that the slot has confirmed, of all tables of the server."
            = |it| of_slot(it, SlotSight::lag_bytes);
        Gauge "walpost_slot_retained_wal_bytes" "Log that the server keeps for the slot."
            = |it| of_slot(it, SlotSight::retained_bytes);
        Gauge "walpost_slot_safe_wal_bytes" "Log that may still be written until the slot is lost; missing when \
            max_slot_wal_keep_size sets no limit, and the disk is the limit."
            = |it| of_slot(it, |slot| slot.safe_bytes);
        Gauge "walpost_slot_wal_status" {"status"} "1 for what the server says of that log, 0 for the others."
            = |it| match it.slot.as_ref().and_then(|slot| slot.wal_status.as_deref()) {
                Some(status) => each(WAL_STATUSES, status),
                None => Values::None,
            };
        Gauge "walpost_slot_active" "Whether any relay reads the slot; missing when nobody can tell."
            = |it| it.slot.as_ref().map(|slot| count(slot.is_active.into())).into();
    }
}

fn trouble_figures<'a>() -> [Figure<Sight<'a>>; 12] {
    figures! {
        Counter "walpost_streams_started_total" "How often both ends were open and streaming began; a steady relay has 1."
            = |it| Values::One(count(it.vitals.tally().streams.get()));
        Counter "walpost_stream_failures_total" {"kind"} "What ended a stream, or kept one from beginning: transient is \
            tried again, message is a refused record, definite and usage need a person."
            = |it| Values::Each(it.vitals.tally().failures().map(|(kind, times)| (kind, count(times))).collect());
        Counter "walpost_refused_records_total" "Refusals of records; the same record counts with each try."
            = |it| Values::One(count(it.vitals.tally().refused.get()));
        Counter "walpost_dead_letters_parked_total" "Messages that were parked as dead letters."
            = |it| Values::One(count(it.vitals.dead_letters()));
        Counter "walpost_dead_letters_replayed_total" "Dead letters that were sent after all."
            = |it| Values::One(count(it.vitals.tally().replayed.get()));
        Gauge "walpost_dead_letters_open" "Dead letters that wait for somebody; counted to 10000."
            = |it| it.desk.dead_letters.map(count).into();
        Gauge "walpost_held_rows" "Rows that are sent later; counted to 10000."
            = |it| it.desk.held.map(count).into();
        Gauge "walpost_next_due_timestamp_seconds" "When the first of them is due."
            = |it| it.desk.next_due.into();
        Gauge "walpost_write_back_pending_rows" "Published rows that are not yet marked or deleted (--write-back)."
            = |it| Values::One(count(it.vitals.tally().unwritten.get()));
        Counter "walpost_written_back_rows_total" "Rows that were marked or deleted."
            = |it| Values::One(count(it.vitals.tally().written_back.get()));
        Counter "walpost_spans_exported_total" "Spans that the collector has taken (--otlp-endpoint)."
            = |it| Values::One(count(it.vitals.tally().spans_exported.get()));
        Counter "walpost_spans_dropped_total" "Spans that were dropped, since the collector did not take them or too many waited."
            = |it| Values::One(count(it.vitals.tally().spans_dropped.get()));
    }
}

fn process_figures<'a>() -> [Figure<Sight<'a>>; 5] {
    figures! {
        Counter "process_cpu_seconds_total" "Time that the process has had on processors."
            = |_| process::cpu_seconds().into();
        Gauge "process_resident_memory_bytes" "Memory that it has."
            = |_| process::resident_bytes().into();
        Gauge "process_open_fds" "Files and sockets that it has open."
            = |_| process::open_fds().into();
        Gauge "process_max_fds" "How many it may have open."
            = |_| process::max_fds().into();
        Gauge "process_start_time_seconds" "When it began, in seconds since 1970."
            = |_| process::started().into();
    }
}

/// 1 for the one, 0 for the others.
fn each<const N: usize>(names: [&'static str; N], one: &str) -> Values {
    Values::Each(names.into_iter().map(|name| (name, f64::from(u8::from(name == one)))).collect())
}

/// Before the first one there is none.
fn position(lsn: u64) -> Values {
    if lsn == 0 { Values::None } else { Values::One(count(lsn)) }
}

fn of_slot(sight: &Sight<'_>, figure: fn(&SlotSight) -> Option<u64>) -> Values {
    sight.slot.as_ref().and_then(figure).map(count).into()
}

/// The time that is so long ago, in seconds since 1970.
fn seconds_of(ago: Duration) -> Option<f64> {
    let at = SystemTime::now().checked_sub(ago)?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some((at.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// A label's value without spaces.
fn label(state: State) -> &'static str {
    underscored(state.name())
}

fn underscored(name: &'static str) -> &'static str {
    match name {
        "standing by" => "standing_by",
        "later delivery" => "later_delivery",
        "dead letters" => "dead_letters",
        "write-back" => "write_back",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    fn value(text: &str, series: &str) -> Option<f64> {
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_vitals_know_is_told_and_what_is_old_is_left_out() {
        let vitals = Vitals::default();
        vitals.beat();
        vitals.enter(State::Streaming, "");
        let seen = |series: &str| value(&text(&vitals), series);
        assert_eq!(seen("walpost_state{state=\"streaming\"}"), Some(1.0));
        assert_eq!(seen("walpost_state{state=\"standing_by\"}"), Some(0.0));
        for absent in ["walpost_confirmed_lsn", "walpost_lag_bytes", "walpost_dead_letters_open"] {
            assert_eq!(seen(absent), None, "{absent}");
        }
        let sight = SlotSight {
            current: Lsn(1000),
            restart: Some(Lsn(400)),
            confirmed: Some(Lsn(900)),
            safe_bytes: Some(7),
            wal_status: Some("extended".to_owned()),
            is_active: true,
        };
        vitals.see_slot(sight);
        vitals.see_desk(DeskSight { dead_letters: Some(2), held: None, next_due: None });
        vitals.set_positions(Lsn(990), Lsn(900));
        vitals.tally().refused.add(3);
        for (series, expected) in [
            ("walpost_lag_bytes", 100.0),
            ("walpost_slot_retained_wal_bytes", 600.0),
            ("walpost_slot_safe_wal_bytes", 7.0),
            ("walpost_slot_wal_status{status=\"extended\"}", 1.0),
            ("walpost_slot_active", 1.0),
            ("walpost_received_lsn", 990.0),
            ("walpost_dead_letters_open", 2.0),
            ("walpost_refused_records_total", 3.0),
            ("walpost_stalled{stage=\"publishing\"}", 0.0),
            ("walpost_ready", 1.0),
        ] {
            assert_eq!(seen(series), Some(expected), "{series}");
        }
        let begun = seen("walpost_slot_seen_timestamp_seconds").unwrap();
        vitals.enter(State::Retrying, "connection refused");
        tokio::time::advance(Duration::from_secs(21)).await;
        let text = text(&vitals);
        for series in [
            "server_wal_lsn",
            "lag_bytes",
            "lag_seconds",
            "slot_retained",
            "slot_safe",
            "slot_wal",
            "slot_active",
        ] {
            assert!(!text.contains(&format!("walpost_{series}")), "{series} is old: {text}");
        }
        let since = begun - seen("walpost_slot_seen_timestamp_seconds").unwrap();
        assert!((20.0..22.0).contains(&since), "the clock of the test alone has moved: {since}");
        assert_eq!(
            (seen("walpost_confirmed_lsn"), seen("walpost_dead_letters_open")),
            (Some(900.0), Some(2.0))
        );
        assert_eq!(seen("walpost_stalled{stage=\"loop\"}"), Some(1.0));
        tokio::time::advance(Duration::from_secs(160)).await;
        assert_eq!(seen("walpost_dead_letters_open"), None);
    }

    #[test]
    fn names_follow_the_conventions() {
        for figure in figures() {
            let Figure { name, kind, help, .. } = figure;
            assert!(name.starts_with("walpost_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.') && !help.contains('|') && !help.contains("  "), "{name}: {help}");
        }
    }

    /// The page's table is this code's: `docs/metrics.md` must hold just these rows.
    #[test]
    fn each_figure_stands_in_the_documentation() {
        // Read, not included: an image is built without the documentation.
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
        let (_, rest) = page.split_once("| figure | type | what it tells |\n|---|---|---|\n").unwrap();
        let written: String =
            rest.lines().take_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
        let expected = exposition::rows(&figures());
        assert!(written == expected, "the table in docs/metrics.md should be:\n{expected}");
    }
}
