//! The variables of the environment, and the settings among them.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::layers::{Layer, SETTINGS, nearest};
use super::{per_table, property};
use crate::error::OutboxError;

pub(super) const CONFIG_VARIABLE: &str = "WALPOST_CONFIG";
const PREFIX: &str = "WALPOST_";

/// The variables of the process as they were when it began.
#[derive(Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Keeps the variables; one that is empty counts as not set, which is how composed files leave it.
    ///
    /// # Errors
    /// A variable that matters here is not UTF-8.
    pub fn new(
        variables: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Self, OutboxError> {
        let mut kept = BTreeMap::new();
        for (name, value) in variables {
            let (Ok(name), value) = (name.into().into_string(), value.into()) else { continue };
            match value.into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => {
                    kept.insert(name, value);
                }
                Err(_) if name.starts_with(PREFIX) || name.starts_with("PG") => {
                    return Err(OutboxError::usage(format!("{name} is not UTF-8"), "set it to plain text"));
                }
                Err(_) => {}
            }
        }
        Ok(Environment(kept))
    }

    /// The value of a variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The settings that the variables hold.
    pub(super) fn layer(&self) -> Result<Layer, OutboxError> {
        let mut layer = Layer::default();
        for (name, value) in &self.0 {
            if !name.starts_with(PREFIX) || name == CONFIG_VARIABLE || is_service_link(name, value) {
                continue;
            }
            if name == per_table::VARIABLE {
                per_table::take_all(value, name, &mut layer)?;
            } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable == name) {
                layer.values.insert(setting.key, value.clone());
            } else if let Some(key) = property::key_of_variable(name) {
                property::put(&key, value, &mut layer);
            } else {
                let known = SETTINGS
                    .iter()
                    .map(|setting| setting.variable)
                    .chain([CONFIG_VARIABLE, per_table::VARIABLE]);
                return Err(OutboxError::usage(
                    format!("{name} is no setting of Walpost"),
                    format!("the nearest is {}", nearest(name, known)),
                ));
            }
        }
        Ok(layer)
    }
}

/// Kubernetes tells every pod of each service, by name: a service called `walpost` or `walpost-…`
/// puts `WALPOST_PORT=tcp://…` and the like into the environment, which nobody wrote as a setting.
fn is_service_link(name: &str, value: &str) -> bool {
    let docker_link =
        name.contains("_PORT") && (value.contains("://") || name.contains("_TCP") || name.contains("_UDP"));
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || docker_link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_kubernetes_sets_are_no_settings() {
        for (name, value, expected) in [
            ("WALPOST_SERVICE_HOST", "10.0.0.1", true),
            ("WALPOST_SERVICE_PORT", "8480", true),
            ("WALPOST_SERVICE_PORT_HTTP", "8480", true),
            ("WALPOST_PORT", "tcp://10.0.0.1:8480", true),
            ("WALPOST_PORT_8480_TCP", "tcp://10.0.0.1:8480", true),
            ("WALPOST_PORT_8480_TCP_ADDR", "10.0.0.1", true),
            ("WALPOST_KAFKA_SERVICE_HOST", "10.0.0.1", true),
            ("WALPOST_PORT", "8480", false),
            ("WALPOST_LISTEN", "127.0.0.1:1", false),
            ("WALPOST_DATABASE_URL", "postgres://h/d", false),
        ] {
            assert_eq!(is_service_link(name, value), expected, "{name}");
        }
    }
}
