//! Somebody between the relay and the server, who answers the question for TLS himself.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use walpost::OutboxError;

use super::lab::{Lab, Made, PASSWORD, port};

/// The question for TLS: eight bytes (PostgreSQL documentation, "Message Formats").
const QUESTION: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Answers with `answer`, and then passes on what is said in plain text, or says `more` and hangs up.
struct Middleman {
    port: u16,
    /// All that was said to him after his answer, and before he hung up.
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Middleman {
    async fn between(server: String, answer: &'static [u8], more: Option<&'static [u8]>) -> Middleman {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
        let all = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(meddle(client, server.clone(), answer, more, Arc::clone(&all)));
            }
        });
        Middleman { port, heard }
    }

    async fn connect(&self, lab: &Lab, role: &str, more: &str) -> Result<Made, OutboxError> {
        let port = port(&lab.server.address());
        let text = lab.text(role, more).replace(&format!("port={port}"), &format!("port={}", self.port));
        lab.connect_from(&text, None).await
    }
}

async fn meddle(
    mut client: TcpStream,
    server: String,
    answer: &'static [u8],
    more: Option<&'static [u8]>,
    heard: Arc<Mutex<Vec<u8>>>,
) -> Option<()> {
    let mut first = [0; 8];
    client.read_exact(&mut first).await.ok()?;
    let mut server = TcpStream::connect(server).await.ok()?;
    if first == QUESTION {
        client.write_all(answer).await.ok()?;
        if let Some(more) = more {
            let mut buffer = [0; 4096];
            let read = client.read(&mut buffer).await.ok()?;
            heard.lock().unwrap().extend_from_slice(&buffer[..read]);
            client.write_all(more).await.ok()?;
            return None;
        }
    } else {
        server.write_all(&first).await.ok()?;
    }
    copy_bidirectional(&mut client, &mut server).await.ok().map(drop)
}

#[tokio::test]
async fn a_no_in_between_is_believed_only_by_who_did_not_insist() {
    let lab = Lab::encrypted("no").await;
    let middleman = Middleman::between(lab.server.address(), b"N", None).await;
    let secret = format!("password='{PASSWORD}'");
    for more in [lab.verified(), "sslmode=require".to_owned()] {
        let error = middleman.connect(&lab, "by_scram", &format!("{secret} {more}")).await.unwrap_err();
        assert!(error.chain().contains("the server does not offer TLS") && error.is_transient(), "{error:?}");
    }
    let more = format!("{secret} sslmode=prefer");
    assert_eq!(middleman.connect(&lab, "by_scram", &more).await.unwrap(), Made::Plain, "as libpq");
    // Who insists on a login that is bound to TLS is not lulled either.
    let more = format!("{secret} sslmode=prefer channel_binding=require");
    let error = middleman.connect(&lab, "by_scram", &more).await.unwrap_err();
    assert!(error.to_string().contains("channel_binding=require"), "{error:?}");
}

#[tokio::test]
async fn what_is_slipped_in_before_tls_is_refused() {
    let lab = Lab::encrypted("slipped").await;
    // An answer to a login that has not been sent yet.
    let middleman =
        Middleman::between(lab.server.address(), b"SR\0\0\0\x08\0\0\0\0", Some(b"R\0\0\0\x08\0\0\0\0")).await;
    for mode in ["prefer", "require"] {
        let error = middleman.connect(&lab, "anyhow", &format!("sslmode={mode}")).await.unwrap_err();
        assert!(error.chain().contains("unencrypted bytes came after the answer"), "{mode}: {error:?}");
        assert!(error.advice().is_some_and(|advice| advice.contains("meddling")), "{mode}: {error:?}");
    }

    // The same where the greeting of TLS has gone out already.
    let middleman = Middleman::between(lab.server.address(), b"S", Some(b"R\0\0\0\x08\0\0\0\0")).await;
    let secret = format!("password='{PASSWORD}'");
    let more = format!("{secret} {}", lab.verified());
    let error = middleman.connect(&lab, "by_scram", &more).await.unwrap_err();
    assert!(error.advice().is_some_and(|advice| advice.contains("does not speak TLS")), "{error:?}");
    let heard = middleman.heard.lock().unwrap().clone();
    assert!(!heard.is_empty() && !heard.windows(8).any(|bytes| bytes == b"by_scram"), "only a greeting");
    // TLS that fails is no reason to give up, where it is only preferred.
    let more = format!("{secret} sslmode=prefer");
    assert_eq!(middleman.connect(&lab, "by_scram", &more).await.unwrap(), Made::Plain, "as libpq");
}
