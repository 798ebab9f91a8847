//! Files of properties as Java reads them (`java.util.Properties.load`).

/// The pairs of a file, in its order.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let text = text.replace("\r\n", "\n");
    let mut lines = text.split(['\n', '\r']).enumerate();
    while let Some((number, line)) = lines.next() {
        let mut line = start(line).to_owned();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        while line.chars().rev().take_while(|letter| *letter == '\\').count() % 2 == 1 {
            line.pop();
            match lines.next() {
                Some((_, more)) => line.push_str(start(more)),
                None => break,
            }
        }
        let (name, value) = split(&line);
        let unescape =
            |text| unescaped(text).ok_or_else(|| format!("line {}: a \\u has no four digits", number + 1));
        pairs.push((unescape(name)?, unescape(value)?));
    }
    Ok(pairs)
}

fn start(line: &str) -> &str {
    line.trim_start_matches([' ', '\t', '\u{c}'])
}

/// The name ends at the first `=`, `:` or space that is not escaped.
fn split(line: &str) -> (&str, &str) {
    let mut is_escaped = false;
    let mut end = None;
    for (at, letter) in line.char_indices() {
        if !is_escaped && matches!(letter, '=' | ':' | ' ' | '\t' | '\u{c}') {
            end = Some(at);
            break;
        }
        is_escaped = letter == '\\' && !is_escaped;
    }
    let Some(end) = end else { return (line, "") };
    let (name, rest) = line.split_at(end);
    let rest = start(rest);
    (name, start(rest.strip_prefix(['=', ':']).unwrap_or(rest)))
}

fn unescaped(text: &str) -> Option<String> {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let letter = match letter {
            '\\' => match letters.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits: String = letters.by_ref().take(4).collect();
                    let is_hex = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    units.push(u16::from_str_radix(&digits, 16).ok().filter(|_| is_hex)?);
                    continue;
                }
                Some(plain) => plain,
                None => break,
            },
            plain => plain,
        };
        units.extend_from_slice(letter.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_java_does() {
        let text = "# a comment\n! another\n\n a = b \nc:d\ne f=g\nlong = one, \\\n  two\\\\\npath=C\\:\\\\x\n\
                    topic=outbox.event.$\\{routedByValue}\r\nempty\nk\\=ey=\\u00e9\\uD83C\\uDF89\\t";
        let pairs: Vec<_> = [
            ("a", "b "),
            ("c", "d"),
            ("e", "f=g"),
            ("long", "one, two\\"),
            ("path", "C:\\x"),
            ("topic", "outbox.event.${routedByValue}"),
            ("empty", ""),
            ("k=ey", "é🎉\t"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        assert_eq!(parse(text), Ok(pairs));
        assert_eq!(parse("a=1\nb=\\u12"), Err("line 2: a \\u has no four digits".to_owned()));
    }
}
