//! What is logged: a level, or directives by module.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Reads a level or a list of directives.
///
/// # Errors
/// It is neither. A word that is no level is refused although a filter would take it for the name of a
/// module: `--log-level verbose` would turn the log off.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    for directive in text.split(',').map(str::trim) {
        let word = directive.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-'));
        if directive.is_empty() || word && directive.parse::<LevelFilter>().is_err() {
            return Err(format!("`{directive}` is not a level"));
        }
    }
    EnvFilter::builder().parse(text).map_err(|error| format!("`{text}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_told_from_typing_errors() {
        for (text, expected) in [
            ("info", true),
            ("WARN", true),
            ("off", true),
            ("walpost=debug", true),
            ("info,walpost::kafka=trace", true),
            ("info, walpost=debug", false),
            ("info,[connect{host=a}]=debug", true),
            ("", false),
            ("verbose", false),
            ("info,", false),
            ("info,walpost", false),
            ("walpost=loud", false),
        ] {
            assert_eq!(log_filter(text).is_ok(), expected, "{text:?}");
        }
    }
}
