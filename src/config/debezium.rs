//! `--debezium-config`: the files of a connector, read here and understood in `crate::debezium`.

use std::fs;
use std::sync::Arc;

use super::layers::{self, Layers, Setting};
use crate::debezium::{Contract, Options};
use crate::error::OutboxError;
use crate::kafka::KafkaSettings;
use crate::postgres::Target;

/// The preset that the files belong to.
const PRESET: &str = "debezium";

/// What the files ask for, if there are any.
pub(super) fn contract(layers: &Layers) -> Result<Option<Arc<Contract>>, OutboxError> {
    let files = layers.get(&layers::DEBEZIUM_CONFIG);
    if files.text.is_empty() {
        return Ok(None);
    }
    if layers.get(&layers::PRESET).text != PRESET {
        return Err(files.wrong("it belongs to the preset debezium", "add --preset debezium"));
    }
    // How a row is marked changes no record.
    let is_mapping = |setting: &&&Setting| {
        setting.key.starts_with("map_") && !matches!(setting.key, "map_own_headers" | "map_mark")
    };
    if let Some(written) =
        layers::SETTINGS.iter().filter(is_mapping).find_map(|setting| layers.given(setting))
    {
        let advice =
            "take it out; of the mapping only --map-own-headers and --map-mark go with --debezium-config";
        return Err(written.wrong("the connector's configuration says what a record is made of", advice));
    }
    if let Some((_, written)) = layers.of_tables().into_iter().next() {
        let advice = "take it out; with --debezium-config the tables differ in nothing but their columns";
        return Err(written.wrong("the connector's configuration says what a record is made of", advice));
    }
    let mut options = Options::default();
    let names = files.text.split(',').map(str::trim).filter(|name| !name.is_empty());
    for name in names {
        let text = fs::read_to_string(name).map_err(|error| {
            files.wrong(&format!("{name} cannot be read: {error}"), "name a file that can be")
        })?;
        options.read(&text).map_err(|wrong| files.wrong(&format!("{name}: {wrong}"), MEND))?;
    }
    let contract = Contract::of(options, &uuid::Uuid::now_v7().to_string());
    contract.map(Arc::new).map(Some).map_err(|wrong| files.wrong(&wrong.to_string(), MEND))
}

/// Refuses a producer that takes larger records than ours would, unless the operator has said how large they may be.
pub(super) fn largest_is_said(
    layers: &Layers,
    target: &Target,
    kafka: &KafkaSettings,
) -> Result<(), OutboxError> {
    const JAVA: u64 = 1 << 20;
    const OURS: &str = "message.max.bytes";
    let largest = target.main.mapping.contract.as_ref().and_then(|contract| contract.largest());
    match largest.filter(|bytes| *bytes > JAVA) {
        Some(bytes) if !kafka.properties.iter().any(|(name, _)| name == OURS) => {
            let what = format!(
                "its producer takes records of {bytes} bytes (max.request.size), and Walpost's would refuse them"
            );
            let advice = format!("add -X {OURS}={bytes}; or take the option out of a copy of the file");
            Err(layers.get(&layers::DEBEZIUM_CONFIG).wrong(&what, &advice))
        }
        _ => Ok(()),
    }
}

/// What helps with any option that is wrong.
const MEND: &str =
    "docs/migrate.md says what is reproduced; change a copy of the file, and compare with `walpost verify`";
