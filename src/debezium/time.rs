//! Dates and times: from PostgreSQL's text (`DateStyle = ISO`) to numbers, and to the texts of Java's formatters.

/// A date and a time of day without a zone, of any year that PostgreSQL knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Days since 1970-01-01.
    pub(super) days: i64,
    /// Microseconds since midnight.
    pub(super) micros: i64,
}

const DAY_US: i64 = 86_400_000_000;

/// What Debezium makes of the infinities of a `timestamp`: the driver's milliseconds, taken as microseconds.
const INFINITY_US: i64 = 9_223_372_036_825_200_000;
const MINUS_INFINITY_US: i64 = -9_223_372_036_832_400_000;

impl Moment {
    fn of_micros(micros: i64) -> Self {
        Moment { days: micros.div_euclid(DAY_US), micros: micros.rem_euclid(DAY_US) }
    }

    /// Microseconds since 1970.
    pub(super) fn epoch_micros(self) -> Option<i64> {
        i64::try_from(i128::from(self.days) * i128::from(DAY_US) + i128::from(self.micros)).ok()
    }

    /// Nanoseconds since 1970, which there are from 1677 to 2262; the infinities are the ends of the numbers.
    pub(super) fn epoch_nanos(self) -> Option<i64> {
        match self.epoch_micros()? {
            INFINITY_US => Some(i64::MAX),
            MINUS_INFINITY_US => Some(i64::MIN),
            micros => micros.checked_mul(1_000),
        }
    }

    /// `yyyy-mm-dd hh:mm:ss[.ffffff][ BC]`, or an infinity.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "infinity" => return Some(Moment::of_micros(INFINITY_US)),
            "-infinity" => return Some(Moment::of_micros(MINUS_INFINITY_US)),
            _ => {}
        }
        let (text, before_christ) = era(text);
        let (date, time) = text.split_once(' ')?;
        Some(Moment { days: days(date, before_christ)?, micros: time_of_day(time)? })
    }

    /// The same with an offset behind the time; the moment is that in UTC.
    pub(super) fn parse_zoned(text: &str) -> Option<Self> {
        let (text, before_christ) = era(text);
        let (date, time) = text.split_once(' ')?;
        let (time, offset) = split_offset(time)?;
        let moment = Moment { days: days(date, before_christ)?, micros: time_of_day(time)? };
        Some(Moment::of_micros(moment.epoch_micros()?.checked_sub(offset)?))
    }

    /// `2024-03-01T05:00:04.128451Z`, with so many digits of the second; `None` shows those that are not zero.
    pub(super) fn iso(self, digits: Option<usize>) -> String {
        format!("{}T{}Z", iso_date(self.days), iso_time(self.micros, digits))
    }
}

/// Days since 1970 of `yyyy-mm-dd[ BC]`.
pub(super) fn date(text: &str) -> Option<i64> {
    match text {
        // What the connector has for them, though it looks like a slip: both are in the past.
        "infinity" => Some(-2_147_472_692),
        "-infinity" => Some(-2_147_472_691),
        text => {
            let (text, before_christ) = era(text);
            days(text, before_christ)
        }
    }
}

/// Microseconds since midnight, in UTC, of a time with an offset.
pub(super) fn zoned_time(text: &str) -> Option<i64> {
    let (time, offset) = split_offset(text)?;
    Some((time_of_day(time)? - offset).rem_euclid(DAY_US))
}

fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

fn days(date: &str, before_christ: bool) -> Option<i64> {
    let (year, rest) = date.split_once('-')?;
    let (month, day) = rest.split_once('-')?;
    let year = number(year)?;
    let (month, day) = (number(month)?, number(day)?);
    let known = (1..=12).contains(&month) && (1..=31).contains(&day) && year <= 999_999;
    known.then(|| days_of(if before_christ { 1 - year } else { year }, month, day))
}

/// Days since 1970-01-01 of a date of the Gregorian calendar.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have the leap day at their end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of the same.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

/// Microseconds of `hh:mm:ss[.ffffff]`; 24:00:00 is one.
pub(super) fn time_of_day(text: &str) -> Option<i64> {
    let (hours, rest) = text.split_once(':')?;
    let (minutes, seconds) = rest.split_once(':')?;
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let micros = if fraction.len() <= 6 { number(&format!("{fraction:0<6}"))? } else { return None };
    let (hours, minutes, seconds) = (number(hours)?, number(minutes)?, number(seconds)?);
    let known = hours <= 24 && minutes < 60 && seconds <= 60;
    known.then_some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
}

/// The time, and its offset from UTC in microseconds: `+hh[:mm[:ss]]`.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    let at = text.rfind(['+', '-'])?;
    let (time, offset) = text.split_at(at);
    let mut seconds = 0;
    for (part, unit) in offset[1..].split(':').zip([3_600, 60, 1]) {
        seconds += number(part)? * unit;
    }
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    Some((time, sign * seconds * 1_000_000))
}

fn number(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// `yyyy-mm-dd`, a year beyond four digits with its sign.
pub(super) fn iso_date(days: i64) -> String {
    let (year, month, day) = date_of(days);
    let year = match year {
        0..=9999 => format!("{year:04}"),
        10_000.. => format!("+{year}"),
        _ => format!("-{:04}", -year),
    };
    format!("{year}-{month:02}-{day:02}")
}

/// `hh:mm:ss` and so many digits of the second; `None` shows those that are not zero.
pub(super) fn iso_time(micros: i64, digits: Option<usize>) -> String {
    let (seconds, fraction) = (micros / 1_000_000 % 86_400, format!("{:06}", micros % 1_000_000));
    let fraction = match digits {
        Some(digits) => fraction.get(..digits).unwrap_or(&fraction),
        None => fraction.trim_end_matches('0'),
    };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{:02}:{:02}:{:02}{point}{fraction}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_written() {
        let iso = |text: &str, digits| Moment::parse_zoned(text).map(|moment| moment.iso(digits));
        for (text, digits, expected) in [
            ("2024-03-01 05:00:04.128451+00", Some(6), "2024-03-01T05:00:04.128451Z"),
            ("2024-03-01 05:00:04+00", Some(6), "2024-03-01T05:00:04.000000Z"),
            ("2024-03-01 05:00:04.5+00", Some(3), "2024-03-01T05:00:04.500Z"),
            ("2024-03-01 05:00:04+00", None, "2024-03-01T05:00:04Z"),
            ("2024-03-01 00:30:00+05:30", None, "2024-02-29T19:00:00Z"),
            ("1800-01-01 00:00:00-00:01:15", None, "1800-01-01T00:01:15Z"),
            ("12026-01-01 00:00:00+00", None, "+12026-01-01T00:00:00Z"),
            ("0044-03-15 12:00:00+00 BC", None, "-0043-03-15T12:00:00Z"),
        ] {
            assert_eq!(iso(text, digits).as_deref(), Some(expected), "{text}");
        }
        let micros = |text: &str| Moment::parse(text).and_then(Moment::epoch_micros);
        for (text, expected) in [
            ("1970-01-01 00:00:00", 0),
            ("2024-03-01 05:00:04.128451", 1_709_269_204_128_451),
            ("1969-12-31 23:59:59.5", -500_000),
            ("infinity", INFINITY_US),
            ("-infinity", MINUS_INFINITY_US),
        ] {
            assert_eq!(micros(text), Some(expected), "{text}");
        }
        for text in ["", "yesterday", "2024-03-01", "2024-13-01 00:00:00", "2024-03-01 00:00"] {
            assert_eq!(micros(text), None, "{text}");
        }
    }

    #[test]
    fn dates_and_times_of_day() {
        for (text, days) in
            [("1970-01-01", 0), ("2024-03-01", 19_783), ("0001-01-01 BC", -719_528), ("1969-12-31", -1)]
        {
            assert_eq!(date(text), Some(days), "{text}");
        }
        for days in [-1_000_000, -719_528, -1, 0, 59, 60, 19_783, 5_000_000] {
            let (year, month, day) = date_of(days);
            assert_eq!(days_of(year, month, day), days);
        }
        assert_eq!(time_of_day("05:00:04.5"), Some(18_004_500_000));
        assert_eq!(time_of_day("24:00:00"), Some(DAY_US));
        assert_eq!(zoned_time("01:00:00+02"), Some(82_800_000_000));
        assert_eq!(iso_time(18_004_500_000, None), "05:00:04.5");
        assert_eq!(iso_date(-719_528), "0000-01-01");
    }
}
