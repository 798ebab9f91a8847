//! Numbers as Java writes them: `Double.toString`, `Float.toString` and `BigDecimal`.

use num_bigint::BigInt;

/// `Double.toString` of JDK 19 and later.
pub(super) fn double(number: f64) -> String {
    if number.is_nan() || number.is_infinite() {
        return special(number.is_nan(), number > 0.0);
    }
    let short = format!("{number:e}");
    let two = format!("{number:.1e}");
    laid_out(if is_one_digit(&short) && two.parse() == Ok(number) { &two } else { &short })
}

/// `Float.toString`, the same of a shorter number.
pub(super) fn float(number: f32) -> String {
    if number.is_nan() || number.is_infinite() {
        return special(number.is_nan(), number > 0.0);
    }
    let short = format!("{number:e}");
    let two = format!("{number:.1e}");
    laid_out(if is_one_digit(&short) && two.parse() == Ok(number) { &two } else { &short })
}

fn special(is_nan: bool, is_positive: bool) -> String {
    let text = match (is_nan, is_positive) {
        (true, _) => "NaN",
        (false, true) => "Infinity",
        (false, false) => "-Infinity",
    };
    text.to_owned()
}

/// Java shows two digits at least, and of several pairs that mean the same number the nearest.
fn is_one_digit(scientific: &str) -> bool {
    !scientific.contains('.')
}

/// From `d.ddde±n` to Java's form: plain from 10⁻³ to below 10⁷, else `d.dddE±n`.
fn laid_out(scientific: &str) -> String {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits = mantissa.replace('.', "");
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    if digits == "0" {
        return format!("{sign}0.0");
    }
    if !(-3..7).contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        let rest = if rest.is_empty() { "0" } else { rest };
        return format!("{sign}{first}.{rest}E{exponent}");
    }
    format!("{sign}{}", with_point(digits, exponent + 1))
}

/// The digits with a point behind so many of them, and at least one digit on each side.
fn with_point(digits: &str, before: i32) -> String {
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    if before <= 0 {
        format!("0.{}{digits}", zeros(-before))
    } else if before >= length {
        format!("{digits}{}.0", zeros(before - length))
    } else {
        let (whole, fraction) = digits.split_at(usize::try_from(before).unwrap_or_default());
        format!("{whole}.{fraction}")
    }
}

/// A decimal number of any length, as `BigDecimal` holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) unscaled: BigInt,
    pub(super) scale: i32,
}

impl Decimal {
    /// A number as PostgreSQL writes it: no exponent.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = whole.strip_prefix(['-', '+']).unwrap_or(whole);
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(digits) || !plain(fraction) || (digits.is_empty() && fraction.is_empty()) {
            return None;
        }
        let unscaled = format!("{whole}{fraction}").parse().ok()?;
        Some(Decimal { unscaled, scale: i32::try_from(fraction.len()).ok()? })
    }

    /// The same number with another scale; `None` if digits would be lost.
    pub(super) fn with_scale(self, scale: i32) -> Option<Self> {
        let ten = BigInt::from(10);
        let steps = scale.abs_diff(self.scale);
        let factor = ten.pow(steps);
        let unscaled = if scale >= self.scale {
            self.unscaled * factor
        } else {
            let whole = &self.unscaled / &factor;
            if &whole * factor != self.unscaled {
                return None;
            }
            whole
        };
        Some(Decimal { unscaled, scale })
    }

    /// The same number without zeros at its end, and with a scale that is not negative.
    pub(super) fn stripped(&self) -> Self {
        let text = self.plain();
        let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        Decimal::parse(short).unwrap_or_else(|| self.clone())
    }

    /// The unscaled number as Java's two's complement, the highest byte first.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.unscaled.to_signed_bytes_be()
    }

    /// `BigDecimal.toPlainString`.
    pub(super) fn plain(&self) -> String {
        let text = self.unscaled.to_string();
        let (sign, digits) = text.strip_prefix('-').map_or(("", &*text), |digits| ("-", digits));
        let scale = usize::try_from(self.scale).unwrap_or_default();
        if scale == 0 {
            let zeros = if digits == "0" { 0 } else { usize::try_from(-self.scale).unwrap_or_default() };
            return format!("{sign}{digits}{}", "0".repeat(zeros));
        }
        let digits = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        format!("{sign}{whole}.{fraction}")
    }

    /// `BigDecimal.toString`: with an exponent where the number is small.
    pub(super) fn text(&self) -> String {
        let unscaled = self.unscaled.to_string();
        let (sign, digits) = unscaled.strip_prefix('-').map_or(("", &*unscaled), |digits| ("-", digits));
        let adjusted = i64::try_from(digits.len()).unwrap_or(i64::MAX) - 1 - i64::from(self.scale);
        if self.scale >= 0 && adjusted >= -6 {
            return self.plain();
        }
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { String::new() } else { format!(".{rest}") };
        let exponent = match adjusted {
            0 => String::new(),
            adjusted => format!("E{adjusted:+}"),
        };
        format!("{sign}{first}{point}{exponent}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_look_as_in_java() {
        for (number, text) in [
            (1.10, "1.1"),
            (1e-7, "1.0E-7"),
            (0.0001, "1.0E-4"),
            (0.001, "0.001"),
            (12_345_678.9, "1.23456789E7"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (1e22, "1.0E22"),
            (2e23, "2.0E23"),
            (100.0, "100.0"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (-12.5, "-12.5"),
            (5e-324, "4.9E-324"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(double(number), text);
        }
        for (number, text) in [(1.1, "1.1"), (1e10, "1.0E10"), (1.4e-45, "1.4E-45"), (0.1, "0.1")] {
            assert_eq!(float(number), text);
        }
    }

    #[test]
    fn decimals_look_as_in_java() {
        for (number, plain, text, bytes) in [
            ("6.25", "6.25", "6.25", &[0x02, 0x71][..]),
            ("-6.25", "-6.25", "-6.25", &[0xfd, 0x8f]),
            ("0.00", "0.00", "0.00", &[0]),
            ("0.0000001", "0.0000001", "1E-7", &[1]),
            ("0.00000012", "0.00000012", "1.2E-7", &[12]),
            ("128", "128", "128", &[0, 128]),
        ] {
            let number = Decimal::parse(number).expect(number);
            assert_eq!((number.plain().as_str(), number.text().as_str()), (plain, text));
            assert_eq!(number.bytes(), bytes, "{plain}");
        }
        for (number, stripped, scale) in
            [("1.10", "1.1", 1), ("100", "100", 0), ("100.00", "100", 0), ("0.00", "0", 0)]
        {
            let number = Decimal::parse(number).expect(number).stripped();
            assert_eq!((number.plain().as_str(), number.scale), (stripped, scale));
        }
        let number = Decimal::parse("1.5").expect("a number");
        assert_eq!(number.clone().with_scale(3).map(|number| number.plain()).as_deref(), Some("1.500"));
        assert_eq!(number.with_scale(0), None);
        for text in ["", "1e5", "NaN", "-", "1.2.3", "."] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }
}
