//! A headless Chromium, driven over a pipe in its own protocol (chromedevtools.github.io/devtools-protocol).

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::guard::Process;
use super::{PATIENCE, eventually};

const NAMED: &str = "WALPOST_TEST_BROWSER";
const KNOWN: [&str; 5] =
    ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// What waits for an answer by its number, and what came without having been asked for.
#[derive(Default)]
struct Heard {
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    events: Vec<Value>,
}

/// A browser with one page. Gone when it is dropped.
pub(crate) struct Browser {
    // First, so that the browser is gone when its folder goes.
    _process: Process,
    pipe: ChildStdin,
    heard: Arc<Mutex<Heard>>,
    session: String,
    number: u64,
    _folder: TempDir,
}

impl Browser {
    pub(crate) async fn start() -> Browser {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // The protocol goes over descriptors 3 and 4, which Rust does not hand on.
        command.args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#, &binary()]);
        command.args(["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]);
        command.args(["--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking"]);
        command.arg(format!("--user-data-dir={}", folder.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Process::spawn(&mut command, "KILL");
        let (pipe, answers) = (process.child().stdin.take().unwrap(), process.child().stdout.take().unwrap());
        let heard = Arc::<Mutex<Heard>>::default();
        let hearing = Arc::clone(&heard);
        thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                // The last one may be torn, when the browser is killed.
                let Ok(message) = serde_json::from_slice::<Value>(&message) else { return };
                let mut heard = hearing.lock().unwrap();
                match message["id"].as_u64().and_then(|id| heard.waiting.remove(&id)) {
                    Some(waiting) => drop(waiting.send(message)),
                    None => heard.events.push(message),
                }
            }
        });
        let session = String::new();
        let mut browser = Browser { _process: process, pipe, heard, session, number: 0, _folder: folder };
        browser.open_page().await;
        browser
    }

    async fn open_page(&mut self) {
        let target = self.say("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.say("Target.attachToTarget", attach).await;
        attached["sessionId"].as_str().unwrap().clone_into(&mut self.session);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            self.say(&format!("{domain}.enable"), json!({})).await;
        }
    }

    /// A command of the protocol and its answer.
    pub(crate) async fn say(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let (sender, answer) = oneshot::channel();
        self.heard.lock().unwrap().waiting.insert(self.number, sender);
        self.pipe.write_all(format!("{message}\0").as_bytes()).unwrap();
        let answer = timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("no answer to {message}"));
        let mut answer = answer.expect("the browser has died");
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }

    /// What the browser has told of its own accord by that name.
    pub(crate) fn told(&self, method: &str) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        heard.events.iter().filter(|it| it["method"] == method).map(|it| it["params"].clone()).collect()
    }

    pub(crate) async fn open(&mut self, url: &str) {
        self.say("Page.navigate", json!({"url": url})).await;
    }

    /// The width and height of the screen.
    pub(crate) async fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.say("Emulation.setDeviceMetricsOverride", size).await;
    }

    pub(crate) async fn prefer_dark(&mut self, is_dark: bool) {
        let value = if is_dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.say("Emulation.setEmulatedMedia", features).await;
    }

    /// The value of an expression of JavaScript; a promise is waited for.
    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        let what = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.say("Runtime.evaluate", what).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// The text of an element that a person would see; empty when it is hidden.
    pub(crate) async fn text(&mut self, selector: &str) -> String {
        let node = format!("document.querySelector({selector:?})");
        let value = self.value(&format!("{node} && {node}.checkVisibility() ? {node}.innerText : ''")).await;
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a person would see that text there.
    pub(crate) async fn sees(&mut self, selector: &str, text: &str, limit: Duration) -> String {
        let mut last = String::new();
        let found = timeout(limit, async {
            eventually(text, limit * 2, async || {
                last = self.text(selector).await;
                last.contains(text).then_some(())
            })
            .await;
        });
        assert!(found.await.is_ok(), "{selector} is {last:?} after {limit:?}, and not {text:?}");
        last
    }

    /// A real press of a key, such as `Tab`, `Enter` or ` `.
    pub(crate) async fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            " " => (32, " "),
            other => panic!("which code has {other}?"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut press = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_empty() {
                press["text"] = text.into();
            }
            self.say("Input.dispatchKeyEvent", press).await;
        }
    }

    /// Types a text into what has the focus.
    pub(crate) async fn type_text(&mut self, text: &str) {
        self.say("Input.insertText", json!({"text": text})).await;
    }
}

fn binary() -> String {
    if let Ok(named) = env::var(NAMED) {
        return named;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = KNOWN.iter().find(|name| env::split_paths(&path).any(|folder| folder.join(name).exists()));
    found.map_or_else(
        || panic!("no browser: `scripts/install browser` installs one, or {NAMED} names it"),
        |name| (*name).to_owned(),
    )
}
