//! Connection strings, in both of libpq's forms, taken apart into pairs of key and value.
//!
//! Rules: PostgreSQL documentation, "Connection Strings". No complaint repeats a piece of the string: a
//! password that was not quoted or encoded as it should be may end up anywhere in it.

/// Key and value in the order written; a later pair replaces an earlier one of the same key.
pub(super) type Pairs = Vec<(String, String)>;

/// Takes a URL or a list of `key=value` apart. Whether the keys are known is decided elsewhere.
pub(super) fn parse(text: &str) -> Result<Pairs, String> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => parse_url(rest),
        None => parse_list(text),
    }
}

fn parse_list(text: &str) -> Result<Pairs, String> {
    let mut pairs: Pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let Some(after) = after.trim_start().strip_prefix('=') else {
            let number = pairs.len() + 1;
            return Err(format!("setting number {number} of the connection string has no `=`"));
        };
        let (value, after) = take_value(after.trim_start())
            .ok_or_else(|| format!("setting number {} has a quote that is never closed", pairs.len() + 1))?;
        // After an unquoted password with a blank in it, what looks like a key is half of the password.
        if pairs.last().is_some_and(|(last, _)| last == "password") && !super::is_known(key) {
            return Err("what follows `password` is no setting: quote the password, as in \
                        password='two words'"
                .to_owned());
        }
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// The value at the start of `text` and what follows it; `None` when its quote is never closed.
fn take_value(text: &str) -> Option<(String, &str)> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut letters = body.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &body[at + 1..])),
            blank if !quoted && blank.is_ascii_whitespace() => return Some((value, &body[at..])),
            other => value.push(other),
        }
    }
    if quoted { None } else { Some((value, "")) }
}

fn parse_url(text: &str) -> Result<Pairs, String> {
    let mut pairs = Vec::new();
    let mut store = |key: &str, encoded: &str| -> Result<(), String> {
        if !encoded.is_empty() {
            pairs.push((key.to_owned(), decode(encoded).ok_or_else(|| bad_percent(key))?));
        }
        Ok(())
    };
    let mut rest = text;
    // As libpq: credentials reach to the first `@` that stands before any slash.
    if let Some(at) = text.find(['@', '/']).filter(|&at| text.as_bytes()[at] == b'@') {
        let (user, password) = text[..at].split_once(':').unwrap_or((&text[..at], ""));
        store("user", user)?;
        store("password", password)?;
        rest = &text[at + 1..];
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (hosts, ports) = parse_hosts(authority)?;
    store("host", &hosts)?;
    store("port", &ports)?;
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    store("dbname", path.strip_prefix('/').unwrap_or(path))?;
    parse_query(query, rest.contains('@'), &mut pairs)?;
    Ok(pairs)
}

/// The lists of hosts and of ports, separated by commas and equally long.
fn parse_hosts(authority: &str) -> Result<(String, String), String> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for server in authority.split(',') {
        let (host, port) = match server.strip_prefix('[') {
            Some(bracketed) => {
                let (address, after) =
                    bracketed.split_once(']').ok_or("an IPv6 address in the URL has no closing bracket")?;
                if address.is_empty() || !(after.is_empty() || after.starts_with(':')) {
                    return Err("an IPv6 address in the URL is not of the form [address]:port".to_owned());
                }
                (address, after.strip_prefix(':').unwrap_or_default())
            }
            None => server.split_once(':').unwrap_or((server, "")),
        };
        hosts.push(host);
        ports.push(port);
    }
    Ok((hosts.join(","), ports.join(",")))
}

fn parse_query(query: &str, stray_at: bool, pairs: &mut Pairs) -> Result<(), String> {
    let mut rest = query;
    while !rest.is_empty() {
        let (parameter, after) = rest.split_once('&').unwrap_or((rest, ""));
        let (key, value) = parameter
            .split_once('=')
            .filter(|(_, value)| !value.contains('='))
            .ok_or("a parameter after the `?` of the URL is not of the form key=value")?;
        let key = decode(key).ok_or_else(|| bad_percent("a parameter's name"))?;
        let value = decode(value).ok_or_else(|| bad_percent(&key))?;
        match (key.as_str(), value.as_str()) {
            // What JDBC's drivers write.
            ("ssl", "true") => pairs.push(("sslmode".to_owned(), "require".to_owned())),
            // Half of a password with a `?` in it looks like a parameter.
            (unknown, _) if stray_at && !super::is_known(unknown) => {
                return Err("a parameter of the URL is unknown; if the password contains @ / ? & or #, \
                            percent-encode them"
                    .to_owned());
            }
            _ => pairs.push((key, value)),
        }
        rest = after;
    }
    Ok(())
}

fn bad_percent(key: &str) -> String {
    format!("`{key}` in the URL has a percent sign without two hexadecimal digits, or is not UTF-8")
}

/// Undoes percent-encoding; a zero byte is refused as libpq does, since C strings end there.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'%' => match digit(rest.next())? * 16 + digit(rest.next())? {
                0 => return None,
                code => bytes.push(u8::try_from(code).ok()?),
            },
            plain => bytes.push(plain),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, String> {
        let pairs = parse(text)?;
        Ok(pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" | "))
    }

    #[test]
    fn both_forms_are_taken_apart_as_libpq_does() {
        for (text, expected) in [
            ("", ""),
            ("  host=a  port = 5433 ", "host=a | port=5433"),
            ("password='two words' host=''", "password=two words | host="),
            (r"password='it\'s' user=a\ b\\", r"password=it's | user=a b\"),
            ("host=a host=b", "host=a | host=b"),
            ("dbname=a=b", "dbname=a=b"),
            ("host=", "host="),
            ("postgresql://", ""),
            ("postgres://h", "host=h"),
            ("postgresql://u@h", "user=u | host=h"),
            ("postgresql://u:p@h:1/d", "user=u | password=p | host=h | port=1 | dbname=d"),
            ("postgresql://u:p:q@h/d", "user=u | password=p:q | host=h | dbname=d"),
            ("postgresql://:@h", "host=h"),
            ("postgresql://u%40x:p%2F%3a@h", "user=u@x | password=p/: | host=h"),
            ("postgresql://%2Fvar%2Frun/d", "host=/var/run | dbname=d"),
            ("postgresql:///d?host=/socket/dir", "dbname=d | host=/socket/dir"),
            ("postgresql:///?user=a@b&port=7", "user=a@b | port=7"),
            ("postgresql://a:1,b,c:3/d", "host=a,b,c | port=1,,3 | dbname=d"),
            ("postgresql://a,b", "host=a,b | port=,"),
            ("postgresql://[::1]:5433,[fe80::2]/d", "host=::1,fe80::2 | port=5433, | dbname=d"),
            ("postgresql://h?ssl=true&connect_timeout=3", "host=h | sslmode=require | connect_timeout=3"),
            ("postgresql://h/d+e?options=-c%20a%3Db", "host=h | dbname=d+e | options=-c a=b"),
            ("postgresql://h?a=b&", "host=h | a=b"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_and_no_piece_of_a_password_is_shown() {
        for (text, expected) in [
            ("sesame", "number 1 of the connection string has no `=`"),
            ("host=a password=open sesame", "number 3"),
            ("host=a password=open ses=ame", "quote the password"),
            ("password='open sesame", "never closed"),
            ("postgresql://u:open%sesame@h", "`password` in the URL has a percent sign"),
            ("postgresql://u:open%00@h", "`password` in the URL has a percent sign"),
            ("postgresql://u:open%ff@h", "`password` in the URL has a percent sign"),
            ("postgresql://u:open@ses?ame=1@h/d", "percent-encode"),
            ("postgresql://u:open/?ses=ame@h/d", "percent-encode"),
            ("postgresql://u:p@h?sesame", "not of the form key=value"),
            ("postgresql://u:p@h?a=open=sesame", "not of the form key=value"),
            ("postgresql://[::1/d", "closing bracket"),
            ("postgresql://[]/d", "[address]:port"),
            ("postgresql://[::1]5/d", "[address]:port"),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
            for piece in ["open", "sesame", "`ses`", "`ame`"] {
                assert!(!error.contains(piece), "{text}: {error}");
            }
        }
    }
}
