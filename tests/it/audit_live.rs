//! `walpost audit` beside a relay at work, and the commands that it prints.

use std::path::Path;

use tokio::process::Command;

use crate::audit::{audit, lose, text};
use crate::support::{PATIENCE, eventually};
use crate::world::{World, stop};

/// The commands among the advice.
pub(crate) fn commands(stderr: &str) -> Vec<&str> {
    stderr.lines().filter_map(|line| line.strip_prefix("  advice: ")).collect()
}

/// Types a line into a shell that knows the database, and little else.
pub(crate) async fn paste(world: &World, line: &str) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_walpost")).parent().unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", line]).env_clear().env("PATH", binary).env("WALPOST_DATABASE_URL", &world.database.url);
    let output = tokio::time::timeout(PATIENCE, shell.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn what_is_printed_replays_all_of_it_by_the_same_mapping_when_it_is_pasted() {
    let world = World::new("pasted", 1).await;
    let client = world.database.client().await;
    // Named by flags alone.
    let mapping = ["--slot", &world.slot, "--map-key", "{topic} of \"ours\""];
    let relay = || world.command(["run"]).env("WALPOST_SLOT", "nobody").args(mapping).streaming();
    let streaming = relay().await;
    world.insert(&client, 5).await;
    world.caught_up().await;
    stop(streaming).await;
    let lost = world.insert(&client, 150).await.len();
    lose(&world, &client).await;

    let output =
        world.command(["audit", "--show", "3"]).env("WALPOST_SLOT", "nobody").args(mapping).output().await;
    let (said, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), said.matches("  lost ").count()), (Some(1), 3), "{said}");
    let lines = commands(&stderr);
    assert_eq!(lines.len(), 4, "{stderr}");
    assert_eq!(lines[0], "all 150, and with them once more what lies between:");
    let settings = format!("walpost replay --slot {} --map-key '{{topic}} of \"ours\"' --where ", world.slot);
    assert!(lines[1].starts_with(&format!("{settings}\"t.created_at BETWEEN '")), "{stderr}");
    assert_eq!(lines[2], "only 100 of 150, and nothing else:");
    assert!(lines[3].starts_with(&format!("{settings}\"id IN (")), "{stderr}");
    assert!(!stderr.contains("postgresql://"), "{stderr}");
    let sent = paste(&world, lines[1]).await;
    assert!(sent.starts_with(&format!("{lost} rows of outbox.messages are sent again")), "{sent}");
    let streaming = relay().await;
    world.consume(155).await;
    world.caught_up().await;
    let (code, told, stderr) = audit(&world, &mapping).await;
    assert_eq!((code, told["published"].as_u64()), (0, Some(155)), "{stderr}");
    stop(streaming).await;
}

/// Its rows are of one moment, and the topics are read a little later.
#[tokio::test]
async fn what_is_written_meanwhile_is_no_record_of_nobody() {
    let world = World::new("meanwhile", 1).await;
    let client = world.database.client().await;
    let relay = world.relay().await;
    world.insert(&client, 20_000).await;
    world.caught_up().await;
    let (writer, topic) = (world.database.client().await, world.topic.clone());
    let writing = tokio::spawn(async move {
        let sql = "INSERT INTO outbox.messages (topic, payload) VALUES ($1, '1')";
        loop {
            writer.execute(sql, &[&topic]).await.unwrap();
        }
    });
    let told = eventually("records of rows that were not there yet", PATIENCE, async || {
        let (code, told, stderr) = audit(&world, &[]).await;
        assert_eq!((code, &told["no_row"]), (0, &0.into()), "{stderr} {told}");
        (told["later"].as_u64().unwrap() > 0).then_some(told)
    })
    .await;
    assert_eq!(told["verdict"], "ok");
    writing.abort();
    assert!(text(&world, &[]).await.starts_with("OK: nothing is lost\n"));
    stop(relay).await;
}
