//! Whom a certificate makes us trust.

use super::lab::{Lab, Made, PASSWORD};
use super::modes::{End, libpq};
use crate::support::Walpost;
use crate::support::certificates::{Authority, ED25519, P256, RSA, Wish, says};

fn tls() -> Made {
    Made::Tls("TLSv1.3".to_owned())
}

/// The same look at the server by its address alone.
fn by_address(lab: &Lab, more: &str) -> String {
    lab.text("anyhow", more).replace("host=localhost ", "")
}

#[tokio::test]
async fn the_certificate_must_be_this_servers() {
    let lab = Lab::encrypted("trust").await;
    let verified = lab.verified();
    let any_name = verified.replace("verify-full", "verify-ca");

    // Elsewhere: a name that is not in it, though the authority has signed it.
    let names = Some("DNS:db.test,DNS:*.shop.test,IP:10.0.0.1");
    lab.present(
        &lab.authority.sign("elsewhere", &Wish { common_name: "localhost", names, ..Wish::default() }),
    )
    .await;
    let has = ["is not for localhost", "db.test, *.shop.test, 10.0.0.1, CN=localhost", "verify-ca"];
    lab.refuses("anyhow", &verified, &has).await;
    assert_eq!(lab.connect("anyhow", &any_name).await.unwrap(), tls());
    let other = format!("{any_name} host=a.shop.test");
    assert_eq!(lab.connect("anyhow", &other).await.unwrap(), tls());
    for (host, is_right) in
        [("a.shop.test", true), ("a.b.shop.test", false), ("shop.test", false), ("DB.test", true)]
    {
        let result = lab.connect("anyhow", &format!("{verified} host={host}")).await;
        assert_eq!(result.is_ok(), is_right, "{host}: {result:?}");
    }

    // An address counts as a name of its own kind.
    lab.present(&lab.authority.sign("address", &Wish { names: Some("IP:127.0.0.1"), ..Wish::default() }))
        .await;
    assert_eq!(lab.connect_from(&by_address(&lab, &verified), None).await.unwrap(), tls());
    lab.refuses("anyhow", &verified, &["is not for localhost", "its names are: 127.0.0.1, CN=server"]).await;

    // The common name, where there is no other.
    let wish = Wish { common_name: "localhost", names: Some("email:a@b.test"), ..Wish::default() };
    lab.present(&lab.authority.sign("common", &wish)).await;
    assert_eq!(lab.connect("anyhow", &verified).await.unwrap(), tls());

    // Version 1, as in PostgreSQL's own manual, by both versions of TLS.
    for key in [P256, RSA] {
        let old = lab
            .authority
            .sign("old", &Wish { common_name: "localhost", names: None, key, ..Wish::default() });
        assert!(says(&old.certificate, "Version: 1"), "openssl makes another version");
        lab.present(&old).await;
        assert_eq!(lab.connect("anyhow", &verified).await.unwrap(), tls());
        let old_tls = format!("{verified} ssl_max_protocol_version=TLSv1.2");
        assert_eq!(lab.connect("anyhow", &old_tls).await.unwrap(), Made::Tls("TLSv1.2".to_owned()));
        assert_eq!(lab.connect("anyhow", "sslmode=require").await.unwrap(), tls());
        let stranger = Authority::new("The Authority");
        let more = format!("sslmode=verify-ca sslrootcert={}", stranger.root().display());
        lab.refuses("anyhow", &more, &["is signed by nobody", "sslrootcert"]).await;
    }
    let old = Wish { names: None, until: "20210101000000Z", ..Wish::default() };
    lab.present(&lab.authority.sign("very_old", &old)).await;
    lab.refuses("anyhow", &any_name, &["is valid from 2020-01-01 00:00 UTC to 2021-01-01 00:00 UTC only"])
        .await;
}

#[tokio::test]
async fn nobody_else_is_trusted() {
    let lab = Lab::encrypted("distrust").await;
    let stranger = Authority::new("A Stranger");
    let roots = |path: &std::path::Path| format!("sslrootcert={}", path.display());
    for mode in ["require", "verify-ca", "verify-full"] {
        let more = format!("sslmode={mode} {}", roots(&stranger.root()));
        lab.refuses("anyhow", &more, &["is signed by nobody that", "ca.crt names", "sslrootcert must hold"])
            .await;
    }

    lab.present(&lab.authority.sign("late", &Wish { until: "20210101000000Z", ..Wish::default() })).await;
    lab.refuses("anyhow", &lab.verified(), &["expired at 2021-01-01 00:00 UTC", "look at the clocks"]).await;

    // One that signs itself is trusted if it is the very one.
    let alone = lab.authority.self_signed(P256);
    lab.present(&alone).await;
    lab.refuses("anyhow", &lab.verified(), &["is signed by nobody that"]).await;
    let more = format!("sslmode=verify-full {}", roots(&alone.certificate));
    assert_eq!(lab.connect("anyhow", &more).await.unwrap(), tls());
    let other = stranger.self_signed(P256);
    let more = format!("sslmode=verify-ca {}", roots(&other.certificate));
    lab.refuses("anyhow", &more, &["is signed by nobody that"]).await;

    // An authority whose own time is over vouches for nobody any more; neither does it with libpq.
    let old = Authority::expired("The Old Authority");
    lab.present(&old.sign("server", &Wish::default())).await;
    let more = format!("sslmode=verify-ca {}", roots(&old.root()));
    lab.refuses("anyhow", &more, &["is signed by nobody that", "without those whose time is over"]).await;
    assert!(libpq(&lab.text("anyhow", &more)).is_none_or(|end| end == End::No));

    let empty = tempfile::NamedTempFile::new().unwrap();
    let more = format!("sslmode=verify-ca {}", roots(empty.path()));
    lab.refuses("anyhow", &more, &["holds no certificate"]).await;
}

#[tokio::test]
async fn the_operating_systems_authorities_can_be_trusted() {
    let lab = Lab::encrypted("system").await;
    let check = |file: std::path::PathBuf| {
        let command = Walpost::with(["check"])
            .env("WALPOST_DATABASE_URL", lab.text("anyhow", "sslrootcert=system"))
            .env("WALPOST_BROKERS", &lab.world.brokers)
            .env("WALPOST_SLOT", &lab.world.slot)
            .env("SSL_CERT_FILE", file);
        command.output()
    };
    let output = check(lab.authority.root()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("connection") && text.contains("TLSv1.3, certificate and name verified"), "{text}");
    let output = check(Authority::new("A Stranger").root()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("is signed by nobody that the operating system names"), "{text}");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let lab = Lab::new(crate::support::PostgresServer::start(&[]).await, "revoked").await;
    let authority = &lab.authority;
    let (good, bad) = (authority.sign("good", &Wish::default()), authority.sign("bad", &Wish::default()));
    let before = authority.list("before.crl");
    authority.revoke(&bad.certificate);
    let after = authority.list("after.crl");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&after, folder.path().join("0000.r0")).unwrap();
    let (before, after) = (format!("sslcrl={}", before.display()), format!("sslcrl={}", after.display()));
    let in_folder = format!("sslcrldir={}", folder.path().display());
    let verified = lab.verified();

    lab.present(&bad).await;
    assert_eq!(lab.connect("anyhow", &verified).await.unwrap(), tls());
    assert_eq!(lab.connect("anyhow", &format!("{verified} {before}")).await.unwrap(), tls());
    for list in [&after, &in_folder] {
        let more = format!("{verified} {list}");
        lab.refuses("anyhow", &more, &["the server's certificate was revoked", "a new certificate"]).await;
    }
    lab.present(&good).await;
    for list in [&after, &in_folder] {
        assert_eq!(lab.connect("anyhow", &format!("{verified} {list}")).await.unwrap(), tls());
    }

    // A list of another authority tells nothing of this certificate.
    let stranger = Authority::new("A Stranger");
    let more = format!("{verified} sslcrl={}", stranger.list("other.crl").display());
    lab.refuses("anyhow", &more, &["can't be held against the revoked ones"]).await;
}

#[tokio::test]
async fn a_login_can_be_bound_to_the_certificate() {
    let lab = Lab::encrypted("bound").await;
    let secret = format!("password='{PASSWORD}'");
    for key in [P256, RSA] {
        lab.present(&lab.authority.sign("bound", &Wish { key, ..Wish::default() })).await;
        for binding in ["require", "prefer", "disable"] {
            let more = format!("{secret} sslmode=require channel_binding={binding}");
            assert_eq!(lab.connect("by_scram", &more).await.unwrap(), tls(), "{binding}");
        }
    }
    let wrong = "password=wrong sslmode=require channel_binding=require";
    lab.refuses("by_scram", wrong, &["password authentication failed", "came from the connection string"])
        .await;
    // Where there is no hash to bind to, only who insists is left out.
    lab.present(&lab.authority.self_signed(ED25519)).await;
    let why = ["channel_binding=require", "SCRAM-SHA-256-PLUS", "channel_binding=prefer"];
    for (role, more, is_in) in [
        ("by_scram", "sslmode=require channel_binding=prefer", true),
        ("by_scram", "sslmode=require channel_binding=disable", true),
        ("by_scram", "sslmode=require channel_binding=require", false),
        ("by_scram", "sslmode=disable channel_binding=require", false),
        ("by_scram", "sslmode=disable", true),
        ("by_md5", "sslmode=require channel_binding=require", false),
        ("by_md5", "sslmode=require", true),
        ("anyhow", "sslmode=require channel_binding=require", false),
    ] {
        let more = format!("{secret} {more}");
        if is_in {
            lab.connect(role, &more).await.unwrap_or_else(|error| panic!("{role} {more}: {error:?}"));
        } else {
            lab.refuses(role, &more, &why).await;
        }
    }
}
