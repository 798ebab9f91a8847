//! How a client logs in: what this build can, secrets that come from files and commands, and the token of OAUTHBEARER.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::client::OAuthToken;

use super::guard::canonical;
use super::settings::KafkaSettings;
use crate::error::OutboxError;
use crate::secret::SecretSource;

/// No property of librdkafka, but what stands behind its `oauthbearer_token_refresh_cb`.
pub(super) const TOKEN: &str = "sasl.oauthbearer.token";
pub(super) const MECHANISM: &str = "sasl.mechanisms";
/// How long a token counts that does not say it itself. librdkafka asks for the next one when four fifths are over.
const UNTOLD: Duration = Duration::from_secs(300);

impl KafkaSettings {
    /// Takes a property from a file or a command, anew for each client that is made: a password that was changed is found
    /// without a restart. `sasl.oauthbearer.token` stands for the token of OAUTHBEARER.
    #[must_use]
    pub fn with_property_from(mut self, name: impl Into<String>, source: SecretSource) -> Self {
        self.sources.push((name.into(), source));
        self
    }

    /// The same settings with the properties as their files and commands give them now. Those of a relay that is made
    /// by hand are to be read so, before each [`KafkaPublisher::open`](crate::KafkaPublisher::open).
    ///
    /// # Errors
    /// A transient one: one of them gives none.
    pub async fn with_secrets(&self) -> Result<KafkaSettings, OutboxError> {
        if self.sources.is_empty() {
            return Ok(self.clone());
        }
        let settings = self.clone();
        tokio::task::spawn_blocking(move || settings.with_secrets_blocking())
            .await
            .map_err(|error| OutboxError::connection("reading Kafka's secrets was abandoned", error))?
    }

    pub(crate) fn with_secrets_blocking(&self) -> Result<KafkaSettings, OutboxError> {
        let mut settings = self.clone();
        settings.properties.retain(|(name, _)| !self.is_from_source(name));
        for (name, source) in self.sources.iter().filter(|(name, _)| name != TOKEN) {
            settings.properties.push((name.clone(), source.read(name)?));
        }
        Ok(settings)
    }

    /// Whether a property comes from a file or a command, and so may be a secret whatever it is called.
    pub(super) fn is_from_source(&self, name: &str) -> bool {
        self.sources.iter().any(|(known, _)| canonical(known) == canonical(name))
    }

    pub(super) fn token(&self) -> Token {
        Token(self.sources.iter().rev().find(|(name, _)| name == TOKEN).map(|(_, source)| source.clone()))
    }
}

/// Whether credentials that were refused are still what their files and commands say.
pub(super) struct Credentials(Option<KafkaSettings>);

impl Credentials {
    /// Of settings whose secrets were read.
    pub(super) fn of(read: &KafkaSettings) -> Self {
        let renewable = read.sources.iter().any(|(name, _)| name != TOKEN);
        Credentials(renewable.then(|| read.clone()))
    }

    /// Blocks while a command runs. What can't be read now has not changed.
    pub(super) fn have_changed(&self) -> bool {
        let Some(read) = &self.0 else { return false };
        match read.with_secrets_blocking() {
            Ok(now) => now.properties != read.properties,
            Err(error) => {
                tracing::debug!(target: "walpost::kafka", "{}", error.chain());
                false
            }
        }
    }
}

/// Refuses a login that this build can't make, which librdkafka would only say in terms of its own build.
pub(super) fn check(merged: &BTreeMap<&str, String>, has_token: bool) -> Result<(), OutboxError> {
    let value = |name: &str| merged.get(name).map_or("", |value| value.trim());
    if !value("security.protocol").to_ascii_lowercase().starts_with("sasl") {
        return Ok(());
    }
    match value(MECHANISM).to_ascii_uppercase().as_str() {
        "" => Err(OutboxError::usage(
            "security.protocol asks for a login, and sasl.mechanism does not say which",
            "set sasl.mechanism to SCRAM-SHA-512, SCRAM-SHA-256, PLAIN or OAUTHBEARER",
        )),
        "GSSAPI" => Err(OutboxError::usage(
            "this build can't log in to Kafka with Kerberos (sasl.mechanism=GSSAPI)",
            "let the brokers take SCRAM-SHA-512, PLAIN, OAUTHBEARER or a client's certificate (security.protocol=ssl)",
        )),
        "OAUTHBEARER" if value("sasl.oauthbearer.method").eq_ignore_ascii_case("oidc") => {
            Err(OutboxError::usage(
                "this build asks no identity provider by itself (sasl.oauthbearer.method=oidc)",
                "leave sasl.oauthbearer.method out, and let a command ask: WALPOST_KAFKA_SASL_OAUTHBEARER_TOKEN_COMMAND",
            ))
        }
        "OAUTHBEARER" if !has_token => Err(OutboxError::usage(
            "sasl.mechanism=OAUTHBEARER needs a token, and nothing gives one",
            "set WALPOST_KAFKA_SASL_OAUTHBEARER_TOKEN_FILE or WALPOST_KAFKA_SASL_OAUTHBEARER_TOKEN_COMMAND",
        )),
        _ => Ok(()),
    }
}

/// Where tokens come from, if the login takes one.
#[derive(Default)]
pub(super) struct Token(Option<SecretSource>);

impl Token {
    pub(super) fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Answers librdkafka, which asks again before the token expires, and ten seconds after a failure.
    pub(super) fn generate(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let source =
            self.0.as_ref().ok_or("there is no token: set sasl.oauthbearer.token by file or command")?;
        let text = source.read(TOKEN).map_err(|error| error.to_string())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(described(text, now))
    }
}

/// A token with whom it is for and until when it counts, as far as it says so (RFC 7519, `sub` and `exp`).
fn described(token: String, now: Duration) -> OAuthToken {
    let claims = claims(&token).unwrap_or_default();
    let untold = (now + UNTOLD).as_secs_f64();
    let until = claims.get("exp").and_then(serde_json::Value::as_f64).unwrap_or(untold);
    let subject = claims.get("sub").and_then(serde_json::Value::as_str).unwrap_or("walpost");
    let lifetime = Duration::try_from_secs_f64(until).unwrap_or_default().as_millis();
    OAuthToken {
        principal_name: subject.to_owned(),
        lifetime_ms: i64::try_from(lifetime).unwrap_or(i64::MAX),
        token,
    }
}

/// What a token says, if it is one that says something (RFC 7515, section 3.1).
fn claims(token: &str) -> Option<serde_json::Value> {
    serde_json::from_slice(&base64_url(token.split('.').nth(1)?)?).ok()
}

/// Base64 in the letters of URLs, without padding (RFC 4648, section 5).
fn base64_url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"sub":"relay","exp":1700000000.5}`.
    const TOKEN_TEXT: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyZWxheSIsImV4cCI6MTcwMDAwMDAwMC41fQ.";

    #[test]
    fn a_token_says_whose_it_is_and_how_long_it_counts() {
        let now = Duration::from_secs(1000);
        for (text, name, until) in [
            (TOKEN_TEXT, "relay", 1_700_000_000_500),
            ("opaque", "walpost", 1_300_000),
            ("a.b.c", "walpost", 1_300_000),
            ("a.!.c", "walpost", 1_300_000),
        ] {
            let token = described(text.to_owned(), now);
            assert_eq!((token.principal_name.as_str(), token.lifetime_ms), (name, until), "{text}");
        }
    }

    #[test]
    fn letters_become_bytes() {
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("Zg", Some(b"f")),
            ("Zm8", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm8=", Some(b"fo")),
            ("-_8", Some(&[0xfb, 0xff])),
            ("Z+9v", None),
        ] {
            assert_eq!(base64_url(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn logins_that_can_not_be_are_refused_with_what_can() {
        for (mechanism, more, has_token, expected) in [
            ("", "", false, Some("does not say which")),
            ("GSSAPI", "", false, Some("Kerberos")),
            ("oauthbearer", "", false, Some("needs a token")),
            ("OAUTHBEARER", "oidc", true, Some("identity provider")),
            ("OAUTHBEARER", "", true, None),
            ("SCRAM-SHA-512", "", false, None),
        ] {
            let merged = BTreeMap::from([
                ("security.protocol", "SASL_SSL".to_owned()),
                (MECHANISM, mechanism.to_owned()),
                ("sasl.oauthbearer.method", more.to_owned()),
            ]);
            let error = check(&merged, has_token).err();
            assert_eq!(error.is_some(), expected.is_some(), "{mechanism}");
            if let (Some(error), Some(expected)) = (error, expected) {
                assert!(error.is_usage() && error.to_string().contains(expected), "{error}");
                assert!(error.advice().is_some());
            }
        }
        assert!(check(&BTreeMap::from([(MECHANISM, "GSSAPI".to_owned())]), false).is_ok(), "no login at all");
    }

    #[test]
    fn what_a_file_gives_is_read_anew_and_stays_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let source = SecretSource::File(path.clone());
        let settings = KafkaSettings::new("a:1")
            .with_property("client.id", "replaced")
            .with_property_from("client.id", source.clone())
            .with_property_from(TOKEN, SecretSource::Command("exit 1".into()));
        assert!(settings.with_secrets_blocking().unwrap_err().is_transient());
        std::fs::write(&path, "sesame-1\n").unwrap();
        let read = settings.with_secrets_blocking().unwrap();
        assert_eq!(read.properties, [("client.id".to_owned(), "sesame-1".to_owned())]);
        assert!(!format!("{read:?} {}", read.secrets().veil("says sesame-1")).contains("sesame"));
        let credentials = Credentials::of(&read);
        assert!(!credentials.have_changed());
        std::fs::write(&path, "sesame-2\n").unwrap();
        assert!(credentials.have_changed());
        std::fs::remove_file(&path).unwrap();
        assert!(!credentials.have_changed(), "a file that is just being replaced is no news");
        assert!(!Credentials::of(&KafkaSettings::new("a:1")).have_changed());
    }
}
