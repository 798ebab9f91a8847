use super::ledger::{Answer, Counts, Ledger, Range, SampleKind};
use super::partitions::Lead;
use super::print::Expected;
use crate::comparison::{Content, Place, Stored};
use crate::lsn::Lsn;

const ANY: Lead = Lead { hash: None, partitions: 3 };

/// `id:key=value`, of the topic t.
fn row(word: &str) -> Expected {
    Expected { topic: "t".to_owned(), partition: None, content: content(word), timestamp: Some(5) }
}

fn content(word: &str) -> Content {
    let (id, rest) = word.split_once(':').expect("an id");
    let (key, value) = rest.split_once('=').expect("a key");
    let headers = if id.is_empty() { Vec::new() } else { vec![("id".to_owned(), Some(id.into()))] };
    Content { key: Some(key.into()), value: Some(value.into()), headers, timestamp: None }
}

/// The same with `@position` behind it; a `!` for one that was replayed.
fn record(word: &str, place: Place) -> Stored {
    let (word, at) = word.split_once('@').unwrap_or((word, ""));
    let mut content = content(word);
    let mut header = |name: &str, value: &str| content.headers.push((name.to_owned(), Some(value.into())));
    if at.ends_with('!') {
        header("walpost.replay", "now");
    }
    if !at.is_empty() {
        header("walpost.lsn", &format!("0/{}", at.trim_end_matches('!')));
        header("walpost.index", "0");
    }
    Stored { place, content }
}

/// After all of it was read.
fn ledger(rows: &str, records: &str) -> Ledger {
    let mut ledger = Ledger::new(3, Range::default());
    for word in rows.split_whitespace() {
        ledger.expect(&row(word), true);
    }
    assert_eq!(ledger.close(), (vec!["t".to_owned()], Some(5)));
    for (partition, words) in (0..).zip(records.split('|')) {
        ledger.turn();
        for (offset, word) in (0..).zip(words.split_whitespace()) {
            ledger.meet("t", record(word, Place { partition, offset }), ANY);
        }
    }
    ledger
}

#[test]
fn each_kind_of_fault_is_counted() {
    let none = Counts::default();
    for (rows, records, expected) in [
        ("1:a=x 2:b=y", "1:a=x@1 | 2:b=y@2", Counts { published: 2, ..none }),
        ("1:a=x 2:b=y", "1:a=x@1", Counts { published: 1, missing: 1, ..none }),
        ("1:a=x", "1:a=x@1 1:a=x@1 1:a=x@9!", Counts { published: 1, repeated: 1, replayed: 1, ..none }),
        ("1:a=x 2:a=y", "2:a=y@2 1:a=x@1", Counts { published: 2, out_of_order: 1, ..none }),
        ("1:a=x 2:b=y", "2:b=y@2 1:a=x@1", Counts { published: 2, ..none }),
        ("1:a=x 2:a=y", "1:a=x@1 2:a=y@2 1:a=x@1", Counts { published: 2, repeated: 1, ..none }),
        ("1:a=x", "1:a=z@1", Counts { published: 1, different: 1, ..none }),
        ("1:a=x", "1:a=x@1 9:a=x@2 8:a=x", Counts { published: 1, unknown: 1, foreign: 1, ..none }),
        // Without an id a record is what it says.
        (":a=x :a=x", ":a=x :a=x :a=x", Counts { published: 2, repeated: 1, ..none }),
        (":a=x :a=x", ":a=x", Counts { published: 1, missing: 1, ..none }),
    ] {
        let (rows, told) = (rows.split_whitespace().count() as u64, ledger(rows, records));
        let records = records.split_whitespace().filter(|word| *word != "|").count() as u64;
        assert_eq!(told.counts(), Counts { rows, records, ..expected });
        assert_eq!(told.is_whole(), expected.missing == 0);
    }
}

#[test]
fn what_is_missing_is_told_once_and_what_is_awaited_is_not() {
    let mut ledger = ledger("1:a=x 2:b=y 3:c=z", "1:a=x@1");
    ledger.put_off(&row("3:c=z"));
    let answers = ["1:a=x", "2:b=y", "3:c=z", "2:b=y"].map(|word| ledger.ask(&row(word)));
    assert_eq!(answers, [Answer::Fine, Answer::Missing, Answer::Fine, Answer::Fine]);
    let counts = ledger.counts();
    assert_eq!((counts.missing, counts.not_yet), (2, 1));
}

#[test]
fn in_what_a_record_differs_is_named_without_its_bytes() {
    let mut ledger = ledger("1:a=x 2:b=y", "1:c=x@1 2:b=secret@2");
    assert!(ledger.is_curious());
    for word in ["1:a=x", "2:b=y"] {
        assert_eq!(ledger.ask(&row(word)), Answer::Fine);
    }
    assert!(!ledger.is_curious());
    let samples = ledger.into_samples();
    let parts: Vec<_> = samples.iter().map(|sample| (sample.kind, sample.parts.join(", "))).collect();
    assert_eq!(
        parts,
        [(SampleKind::Different, "key".to_owned()), (SampleKind::Different, "value".to_owned())]
    );
}

#[test]
fn rows_that_conditions_keep_out_are_not_missed_and_may_have_been_sent() {
    let mut ledger = Ledger::new(1, Range::default());
    for word in ["1:a=x", "2:b=y"] {
        ledger.expect(&row(word), false);
    }
    let _ = ledger.close();
    ledger.meet("t", record("2:b=y@1", Place { partition: 0, offset: 0 }), ANY);
    let counts = ledger.counts();
    assert_eq!((counts.left_out, counts.published, counts.missing, counts.rows), (1, 1, 0, 1));
    assert!(ledger.is_whole());
}

#[test]
fn a_range_judges_its_records_and_hides_no_loss() {
    let range = |from, to| Range { from: Some(Lsn(from)), to: Some(Lsn(to)) };
    for (range, published, outside, repeated) in
        [(Range::default(), 3, 0, 1), (range(2, 9), 2, 1, 0), (range(1, 2), 1, 2, 1), (range(3, 3), 0, 3, 0)]
    {
        let mut ledger = Ledger::new(1, range);
        for word in ["1:a=x", "2:b=y", "3:c=z", "4:d=w"] {
            ledger.expect(&row(word), true);
        }
        let _ = ledger.close();
        for (word, offset) in ["1:a=x@1", "2:b=y@2", "3:c=z@3", "1:a=x@1", "9:i=i@1"].iter().zip(0..) {
            ledger.meet("t", record(word, Place { partition: 0, offset }), ANY);
        }
        ledger.end_topic();
        assert_eq!(ledger.ask(&row("4:d=w")), Answer::Missing, "whatever the range is");
        let counts = ledger.counts();
        assert_eq!((counts.published, counts.outside, counts.repeated), (published, outside, repeated));
        assert_eq!((counts.missing, counts.rows), (1, published + 1));
    }
}

#[test]
fn a_compacted_topic_has_let_go_of_what_stands_before_a_later_record() {
    let place = |offset| Place { partition: 0, offset };
    let at = |word: &str, time| Expected { timestamp: Some(time), ..row(word) };
    for (gaps, compacted, expected) in
        [(true, true, [true, false, false]), (false, true, [false; 3]), (true, false, [false; 3])]
    {
        let mut ledger = Ledger::new(1, Range::default());
        ledger.compacted(compacted.then(|| "t".to_owned()).into_iter().collect());
        let record = Stored { content: Content { timestamp: Some(5), ..content("2:a=y") }, place: place(1) };
        ledger.meet("t", record, ANY);
        if gaps {
            ledger.has_gaps("t", 0);
        }
        // An earlier one of its key, a later one, and one of another key.
        let rows = [at("1:a=x", 4), at("3:a=z", 6), at("4:b=x", 1)];
        assert_eq!(rows.map(|row| ledger.is_compacted(&row)), expected);
    }
}

#[test]
fn a_record_in_another_partition_than_its_key_leads_to_is_told() {
    let mut ledger = Ledger::new(5, Range::default());
    let words = ["1:a=x", "2:b=y", "3:c=z"];
    for word in words {
        ledger.expect(&row(word), true);
    }
    ledger.expect(&Expected { partition: Some(2), ..row("4:d=w") }, true);
    let _ = ledger.close();
    for (word, hash, partition) in
        [("1:a=x@1", 1, 1), ("2:b=y@2", 2, 2), ("3:c=z@3", 0, 1), ("4:d=w@4", 0, 0)]
    {
        let lead = Lead { hash: Some(hash), partitions: 3 };
        ledger.meet("t", record(word, Place { partition, offset: 0 }), lead);
    }
    ledger.end_topic();
    let counts = ledger.counts();
    assert_eq!((counts.wrong_partition, counts.different, counts.published), (2, 0, 4));
    let mut ids: Vec<_> =
        ledger.into_samples().into_iter().map(|sample| (sample.kind, sample.id.unwrap())).collect();
    ids.sort_by(|one, other| one.1.cmp(&other.1));
    let kind = SampleKind::WrongPartition;
    assert_eq!(ids, [(kind, "3".to_owned()), (kind, "4".to_owned())]);
}

#[test]
fn what_came_after_the_moment_of_the_rows_is_nobodys_fault() {
    let mut ledger = Ledger::new(3, Range::default());
    ledger.rows_are_of(Lsn(0x20));
    ledger.expect(&row("1:a=x"), true);
    ledger.close();
    for (offset, word) in (0..).zip(["1:a=x@10", "7:a=x@1F", "8:a=x@20", "9:a=x@30"]) {
        ledger.meet("t", record(word, Place { partition: 0, offset }), ANY);
    }
    let counts = ledger.counts();
    assert_eq!((counts.published, counts.unknown, counts.later), (1, 1, 2));
    assert_eq!(ledger.into_samples().len(), 1);
}
