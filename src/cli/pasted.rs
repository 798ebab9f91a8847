//! Command lines that do what they say when they are pasted into a shell.

use std::path::Path;

use crate::config::Layer;

/// A text as one word of a POSIX shell.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:@%+=,".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    // An interactive shell looks for `!` between double quotes as well.
    if !text.contains('\'') || text.contains('!') {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        if matches!(letter, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    quoted + "\""
}

/// Settings as they were typed, each behind a blank. What the environment and the file say holds for the next command as well;
/// no secret is among what may be typed.
pub(super) fn settings(typed: &Layer, file: Option<&Path>) -> String {
    let file = file.map(|file| ("--config", file.to_string_lossy().into_owned()));
    let all = file.into_iter().chain(typed.flags());
    all.map(|(flag, value)| format!(" {flag} {}", quoted(&value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers;

    #[test]
    fn a_shell_reads_what_was_meant() {
        for text in
            ["orders", "", "it's", "a \"b\" $HOME `id` \\ 'c'", "no! 'x'", "id IN ('a', 'b')", "é\n", "*"]
        {
            let said = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(text))])
                .output()
                .expect("a shell");
            assert_eq!(String::from_utf8_lossy(&said.stdout), text, "{}", quoted(text));
        }
        assert_eq!(quoted("id IN ('a')"), "\"id IN ('a')\"");
    }

    #[test]
    fn settings_are_those_that_were_typed() {
        let mut typed = Layer::default();
        assert_eq!(settings(&typed, None), "");
        typed.put(&layers::SLOT, Some(&"w2".to_owned()));
        typed.put(&layers::MAP_KEY, Some(&String::new()));
        typed.put(&layers::TABLE, Some(&"a.b, a.c".to_owned()));
        typed.put_for_table("a.b: topic={x}").expect("an entry");
        let expected =
            " --config w.toml --table 'a.b, a.c' --slot w2 --map-key '' --map-for 'a.b: topic={x}'";
        assert_eq!(settings(&typed, Some(Path::new("w.toml"))), expected);
    }
}
