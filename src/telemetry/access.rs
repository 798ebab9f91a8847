//! Who may ask the listener for what. Pure: what a request says and what is set, to a verdict.
//!
//! | what | no token is set | a token is set |
//! |---|---|---|
//! | probes, metrics, the empty page | open | open |
//! | what the relay does ([`Wish::Look`]) | on a loopback address, under a name of this machine | with the token |
//! | what changes something ([`Wish::Act`]) | never | with the token, from the page itself, if `--page-actions` |
//!
//! The name matters, since a browser lets any site that resolves to 127.0.0.1 read what is answered there
//! (DNS rebinding). Only a request that bears the token may come under a name of which the relay knows nothing.

use std::net::IpAddr;
use std::sync::Arc;

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To see what the relay does.
    Look,
    /// To change something.
    Act,
}

/// What a request says of itself. Absent headers are `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// `Host`.
    pub host: Option<&'a str>,
    /// `Origin`, which a browser adds to whatever may change something.
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site`, which a page can't forge.
    pub site: Option<&'a str>,
    /// `Authorization`.
    pub authorization: Option<&'a str>,
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
}

/// What is set.
#[derive(Clone, Debug, Default)]
pub struct Access {
    token: Option<Token>,
    is_local: bool,
    may_act: bool,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It lacks the token, or bears a wrong one.
    NoToken,
    /// Others than this machine's users can reach the address, and there is no token that tells them apart.
    Exposed,
    /// It came under a name that is not one of this machine.
    ForeignName,
    /// It came from another site's page.
    ForeignOrigin,
    /// Nothing may be changed here.
    ActionsOff,
    /// It is not JSON, and so perhaps a form of another site.
    NotJson,
}

/// What a request must bear. Shown nowhere.
#[derive(Clone)]
struct Token(Arc<str>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Takes as long for a wrong token as for the right one, so that time tells nothing of it.
    fn is(&self, given: &str) -> bool {
        let (own, given) = (self.0.as_bytes(), given.as_bytes());
        let differing = own.iter().zip(given).fold(0, |differing, (a, b)| differing | (a ^ b));
        own.len() == given.len() && std::hint::black_box(differing) == 0
    }
}

impl Access {
    /// Asks for `Authorization: Bearer <token>`.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<Arc<str>>) -> Access {
        self.token = Some(Token(token.into()));
        self
    }

    /// Lets whoever bears the token change something. Without a token nothing is ever changed.
    #[must_use]
    pub fn with_actions(mut self, may_act: bool) -> Access {
        self.may_act = may_act;
        self
    }

    /// Says whether only this machine's users can reach the address.
    #[must_use]
    pub fn local(mut self, is_local: bool) -> Access {
        self.is_local = is_local;
        self
    }

    /// Whether anything can be changed at all.
    #[must_use]
    pub fn may_act(&self) -> bool {
        self.may_act && self.token.is_some()
    }

    /// Whether a request is answered.
    ///
    /// # Errors
    /// Why it is not.
    pub fn decide(&self, wish: Wish, facts: &Facts<'_>) -> Result<(), Denied> {
        if wish == Wish::Act {
            self.may_change(facts)?;
        }
        let given = facts.authorization.and_then(|value| value.strip_prefix("Bearer "));
        match &self.token {
            Some(token) if given.is_some_and(|given| token.is(given)) => Ok(()),
            Some(_) => Err(Denied::NoToken),
            None if !self.is_local => Err(Denied::Exposed),
            None if !facts.host.is_some_and(is_this_machine) => Err(Denied::ForeignName),
            None => Ok(()),
        }
    }

    fn may_change(&self, facts: &Facts<'_>) -> Result<(), Denied> {
        if !self.may_act() {
            return Err(Denied::ActionsOff);
        }
        // Older browsers don't send it, and neither does curl.
        if facts.site.is_some_and(|site| site != "same-origin") {
            return Err(Denied::ForeignOrigin);
        }
        let own = |origin: &str| {
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            host.is_some() && host == facts.host
        };
        if facts.origin.is_some_and(|origin| !own(origin)) {
            return Err(Denied::ForeignOrigin);
        }
        let media = facts.content_type.and_then(|text| text.split(';').next()).unwrap_or_default();
        if media.trim().eq_ignore_ascii_case("application/json") { Ok(()) } else { Err(Denied::NotJson) }
    }
}

impl Denied {
    /// The status of HTTP.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Denied::NoToken => 401,
            Denied::NotJson => 415,
            Denied::ForeignName => 421,
            Denied::Exposed | Denied::ForeignOrigin | Denied::ActionsOff => 403,
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Denied::NoToken => "the token is missing or wrong",
            Denied::Exposed => "the relay listens on an address that others can reach, and has no token",
            Denied::ForeignName => "the request came under a name that is not one of this machine",
            Denied::ForeignOrigin => "the request came from another site",
            Denied::ActionsOff => "nothing can be changed here",
            Denied::NotJson => "the request is not JSON",
        }
    }

    /// What mends it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Denied::NoToken => "give the text of the file that --listen-token-file names",
            Denied::Exposed => {
                "set --listen-token-file (WALPOST_LISTEN_TOKEN_FILE), or listen on 127.0.0.1 only; probes and /metrics \
                 need no token"
            }
            Denied::ForeignName => {
                "use http://localhost or http://127.0.0.1; for another name, as behind a proxy, set --listen-token-file"
            }
            Denied::ForeignOrigin => "use the page of the relay itself",
            Denied::ActionsOff => {
                "start the relay with --page-actions and --listen-token-file, or use `walpost dead-letters`"
            }
            Denied::NotJson => "send it with Content-Type: application/json",
        }
    }
}

/// Whether the value of `Host` can't be another site's.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Option<&str> = Some("application/json; charset=utf-8");

    #[test]
    fn a_token_is_compared_whole_and_never_shown() {
        let token = Token("sesame".into());
        assert!(token.is("sesame"));
        for other in ["", "sesam", "sesame ", "Sesame", "sesamf"] {
            assert!(!token.is(other), "{other}");
        }
        assert!(!format!("{:?}", Access::default().with_token("sesame")).contains("sesame"));
    }

    #[test]
    fn without_a_token_only_this_machine_may_look() {
        let local = Access::default().local(true).with_actions(true);
        for host in ["localhost", "LOCALHOST:8480", "127.0.0.1:1", "127.1.2.3", "[::1]:8480", "[::1]"] {
            let facts = Facts { host: Some(host), ..Facts::default() };
            assert_eq!(local.decide(Wish::Look, &facts), Ok(()), "{host}");
            assert_eq!(local.clone().local(false).decide(Wish::Look, &facts), Err(Denied::Exposed), "{host}");
            let facts = Facts { content_type: JSON, ..facts };
            assert_eq!(local.decide(Wish::Act, &facts), Err(Denied::ActionsOff), "never without a token");
        }
        for host in
            ["evil.example:8480", "localhost.evil.example", "10.0.0.1", "", "[::2]", "127.0.0.1.nip.io"]
        {
            let facts = Facts { host: Some(host), ..Facts::default() };
            assert_eq!(local.decide(Wish::Look, &facts), Err(Denied::ForeignName), "{host}");
        }
        assert_eq!(local.decide(Wish::Look, &Facts::default()), Err(Denied::ForeignName));
    }

    #[test]
    fn with_a_token_it_alone_counts() {
        let access = Access::default().with_token("sesame");
        let facts = |authorization| Facts { host: Some("relay.example"), authorization, ..Facts::default() };
        assert_eq!(access.decide(Wish::Look, &facts(Some("Bearer sesame"))), Ok(()));
        for given in [None, Some("Bearer open"), Some("Basic sesame"), Some("sesame"), Some("Bearer ")] {
            for is_local in [false, true] {
                let access = access.clone().local(is_local);
                assert_eq!(access.decide(Wish::Look, &facts(given)), Err(Denied::NoToken), "{given:?}");
            }
        }
    }

    #[test]
    fn a_change_needs_all_of_it() {
        let access = Access::default().with_token("sesame").with_actions(true);
        let good = Facts {
            host: Some("relay.example:8480"),
            origin: Some("http://relay.example:8480"),
            site: Some("same-origin"),
            authorization: Some("Bearer sesame"),
            content_type: JSON,
        };
        assert_eq!(access.decide(Wish::Act, &good), Ok(()));
        assert_eq!(access.decide(Wish::Act, &Facts { origin: None, site: None, ..good }), Ok(()), "curl");
        for (facts, expected) in [
            (Facts { authorization: None, ..good }, Denied::NoToken),
            (Facts { authorization: Some("Bearer x"), ..good }, Denied::NoToken),
            (Facts { origin: Some("http://evil.example"), ..good }, Denied::ForeignOrigin),
            (Facts { origin: Some("null"), ..good }, Denied::ForeignOrigin),
            (Facts { host: None, ..good }, Denied::ForeignOrigin),
            (Facts { site: Some("same-site"), ..good }, Denied::ForeignOrigin),
            (Facts { site: Some("cross-site"), origin: None, ..good }, Denied::ForeignOrigin),
            (Facts { content_type: Some("text/plain"), ..good }, Denied::NotJson),
            (Facts { content_type: None, ..good }, Denied::NotJson),
        ] {
            assert_eq!(access.decide(Wish::Act, &facts), Err(expected), "{facts:?}");
        }
        let off = access.with_actions(false);
        assert_eq!(off.decide(Wish::Act, &good), Err(Denied::ActionsOff));
        assert_eq!(off.decide(Wish::Look, &good), Ok(()));
    }
}
