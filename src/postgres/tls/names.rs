//! Whether a certificate is the one of a server of this name: libpq's rules (PostgreSQL documentation, "Client
//! Verification of Server Certificates").

use std::net::IpAddr;

use super::certificate::{Certificate, Name};

/// Whether the certificate has the name of the host. The common name counts where there is no alternative name of the same
/// kind, unless it `is_constrained`: who may sign only for some names may do so in the list of alternative names alone.
pub(super) fn is_of(certificate: &Certificate<'_>, host: &str, is_constrained: bool) -> bool {
    if host.is_empty() {
        return false;
    }
    let address: Option<IpAddr> = host.parse().ok();
    let is_named = certificate.names.iter().any(|name| match name {
        Name::Dns(pattern) => matches(pattern, host),
        Name::Address(other) => address == Some(*other),
    });
    let has_same_kind = |name: &Name| matches!(name, Name::Address(_)) == address.is_some();
    let may_fall_back = !is_constrained && !certificate.names.iter().any(has_same_kind);
    is_named || (may_fall_back && certificate.common_name.as_deref().is_some_and(|name| matches(name, host)))
}

/// Letters are alike in both cases. A star stands for one first label, and only for a whole one.
fn matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(pattern), Some((label, rest))) = (pattern.strip_prefix("*."), host.split_once('.')) else {
        return false;
    };
    // Numbers are not made of labels.
    let is_address = host.parse::<IpAddr>().is_ok();
    !is_address && !label.is_empty() && !pattern.is_empty() && pattern.eq_ignore_ascii_case(rest)
}

/// The names that the certificate has, for a person.
pub(super) fn listed(certificate: &Certificate<'_>) -> String {
    let names = certificate.names.iter().map(|name| match name {
        Name::Dns(name) => name.clone(),
        Name::Address(address) => address.to_string(),
    });
    let common_name = certificate.common_name.iter().map(|name| format!("CN={name}"));
    // It is the other side's text, and ends in a line of the log.
    let plain =
        |name: String| name.chars().filter(|letter| !letter.is_control()).take(255).collect::<String>();
    let all: Vec<String> = names.chain(common_name).take(20).map(plain).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_whole_first_label() {
        for (pattern, host, expected) in [
            ("db.example.com", "db.example.com", true),
            ("DB.Example.com", "db.eXample.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("d*.example.com", "db.example.com", false),
            ("*", "db", false),
            ("*.", "db.", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("*.0.0.1", "10.0.0.1", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, host), expected, "{pattern} {host}");
        }
    }
}
