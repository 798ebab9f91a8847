//! Which topics are compacted, for `walpost audit`.

use std::collections::HashSet;

use rdkafka::admin::ResourceSpecifier;

use super::topics::values;
use super::{ANSWER, admin, options};
use crate::kafka::settings::KafkaSettings;

/// So many topics are asked for at once.
const AT_ONCE: usize = 200;

/// What the brokers say.
#[derive(Debug, Default)]
pub(crate) struct Compacted {
    pub(crate) topics: HashSet<String>,
    /// Topics whose settings may not be seen, or of which nobody tells.
    pub(crate) unseen: Vec<String>,
}

/// Asks for the settings of these topics, and never fails.
pub(crate) async fn compacted(settings: &KafkaSettings, topics: &[String]) -> Compacted {
    let mut found = Compacted::default();
    let unseen = |topics: &[String]| Compacted { unseen: topics.to_vec(), ..Compacted::default() };
    let Ok(settings) = settings.with_secrets().await else { return unseen(topics) };
    // The client for such questions can't log in by a token.
    let (false, Ok(admin)) = (settings.token().is_wanted(), admin(&settings)) else { return unseen(topics) };
    for some in topics.chunks(AT_ONCE) {
        let specifiers: Vec<_> = some.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let answers = tokio::time::timeout(3 * ANSWER, admin.describe_configs(&specifiers, &options())).await;
        let Ok(Ok(answers)) = answers else {
            found.unseen.extend_from_slice(some);
            continue;
        };
        // In the order of the questions, since a refusal does not say of what.
        for (topic, answer) in some.iter().zip(answers) {
            match answer.map(|resource| values(&resource)) {
                Ok(settings) if is_compacted(settings.get("cleanup.policy")) => {
                    found.topics.insert(topic.clone());
                }
                Ok(_) => {}
                Err(_) => found.unseen.push(topic.clone()),
            }
        }
    }
    found
}

/// Whether a `cleanup.policy` lets records go for later ones of their key.
pub(super) fn is_compacted(policy: Option<&String>) -> bool {
    policy.is_some_and(|policy| policy.split(',').any(|policy| policy.trim() == "compact"))
}
