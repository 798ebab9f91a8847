//! What we show a server, and in which files it may be kept.

use std::fs::{self, Permissions, set_permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::lab::{Lab, Made};
use crate::support::certificates::{Authority, ED25519, P256, Pair, RSA, Wish};

fn tls() -> Made {
    Made::Tls("TLSv1.3".to_owned())
}

fn shown(pair: &Pair) -> String {
    format!("sslcert={} sslkey={}", pair.certificate.display(), pair.key.display())
}

fn ours(key: &'static [&'static str]) -> Wish<'static> {
    Wish { common_name: "by_certificate", key, ..Wish::default() }
}

#[tokio::test]
async fn a_certificate_of_ours_lets_us_in() {
    let lab = Lab::encrypted("shown").await;
    let verified = lab.verified();
    let role = "by_certificate";
    lab.refuses(role, &verified, &["client certificate", "name it with sslcert"]).await;
    for key in [P256, RSA, ED25519] {
        let pair = lab.authority.sign("ours", &ours(key));
        assert_eq!(
            lab.connect(role, &format!("{verified} {}", shown(&pair))).await.unwrap(),
            tls(),
            "{key:?}"
        );
    }
    // Of version 1 as well, and over the older TLS.
    let old = lab.authority.sign("old", &Wish { names: None, ..ours(P256) });
    let more = format!("{verified} {} ssl_max_protocol_version=TLSv1.2", shown(&old));
    assert_eq!(lab.connect(role, &more).await.unwrap(), Made::Tls("TLSv1.2".to_owned()));

    let foreign = Authority::new("A Stranger");
    let pair = foreign.sign("ours", &ours(P256));
    let not_accepted = ["sslcert and sslkey must be signed", "ssl_ca_file"];
    for version in ["", "ssl_max_protocol_version=TLSv1.2"] {
        let more = format!("{verified} {} {version}", shown(&pair));
        lab.refuses(role, &more, &not_accepted).await;
    }

    // By name or from the home, unless it is not to be shown.
    let pair = lab.authority.sign("ours", &ours(P256));
    let never = format!("{verified} {} sslcertmode=disable", shown(&pair));
    lab.refuses(role, &never, &["client certificate"]).await;
    let always = format!("{verified} {} sslcertmode=require", shown(&pair));
    assert_eq!(lab.connect(role, &always).await.unwrap(), tls());
    let none = format!("{verified} sslcertmode=require");
    lab.refuses("anyhow", &none, &["there is no certificate to show"]).await;

    lab.client.batch_execute("ALTER SYSTEM SET ssl_ca_file = ''").await.unwrap();
    lab.reload().await;
    lab.refuses("anyhow", &always, &["the server does not ask for a certificate", "set ssl_ca_file"]).await;
    lab.client.batch_execute("ALTER SYSTEM SET ssl_ca_file = 'root.crt'").await.unwrap();
    lab.reload().await;

    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".postgresql");
    fs::create_dir(&folder).unwrap();
    for (from, to) in [
        (&pair.certificate, "postgresql.crt"),
        (&pair.key, "postgresql.key"),
        (&lab.authority.root(), "root.crt"),
    ] {
        fs::copy(from, folder.join(to)).unwrap();
    }
    let text = lab.text(role, "sslmode=verify-full");
    assert_eq!(lab.connect_from(&text, Some(home.path())).await.unwrap(), tls());
    fs::write(folder.join("root.crl"), fs::read(lab.authority.list("list.crl")).unwrap()).unwrap();
    assert_eq!(lab.connect_from(&text, Some(home.path())).await.unwrap(), tls());
    fs::copy(Authority::new("A Stranger").root(), folder.join("root.crt")).unwrap();
    let error = lab.connect_from(&text, Some(home.path())).await.unwrap_err();
    assert!(error.chain().contains("is signed by nobody that") && error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_key_may_be_kept_in_any_form_that_nobody_else_can_read() {
    let lab = Lab::encrypted("kept").await;
    let (verified, role) = (lab.verified(), "by_certificate");
    let rsa = lab.authority.sign("rsa", &ours(RSA));
    let curve = lab.authority.sign("curve", &ours(P256));
    for (pair, form, how) in [
        (&rsa, "PKCS#1", &["rsa", "-traditional"][..]),
        (&rsa, "DER", &["pkey", "-outform", "DER"]),
        (&curve, "SEC1", &["ec"]),
        (&curve, "DER of SEC1", &["ec", "-outform", "DER"]),
    ] {
        let key = lab.authority.convert(&pair.key, "converted", how);
        set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let kept = Pair { key, ..pair.clone() };
        let made = lab.connect(role, &format!("{verified} {}", shown(&kept))).await;
        assert_eq!(made.unwrap_or_else(|error| panic!("{form}: {error:?}")), tls());
    }

    let key = lab.authority.convert(&rsa.key, "secret", &["pkey", "-aes256", "-passout", "pass:sesame"]);
    set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let secret = format!("{verified} {} sslpassword=sesame", shown(&Pair { key, ..rsa.clone() }));
    lab.refuses(role, &secret, &["the key is encrypted", "openssl pkey -in"]).await;
    let swapped = Pair { key: curve.key.clone(), ..rsa.clone() };
    lab.refuses(role, &format!("{verified} {}", shown(&swapped)), &["it is not the key of", "rsa.crt"]).await;
    let missing = Pair { key: "/nowhere/our.key".into(), ..rsa.clone() };
    lab.refuses(role, &format!("{verified} {}", shown(&missing)), &["/nowhere/our.key", "no key to it"])
        .await;
    let none = Pair { key: rsa.certificate.clone(), ..rsa.clone() };
    set_permissions(&none.key, Permissions::from_mode(0o600)).unwrap();
    lab.refuses(role, &format!("{verified} {}", shown(&none)), &["it holds no private key"]).await;

    // What belongs to root may be read by its group.
    let is_roots = fs::metadata(&rsa.key).unwrap().uid() == 0;
    for (mode, is_used) in [(0o600, true), (0o400, true), (0o640, is_roots), (0o604, false), (0o660, false)] {
        set_permissions(&rsa.key, Permissions::from_mode(mode)).unwrap();
        let more = format!("{verified} {}", shown(&rsa));
        if is_used {
            assert_eq!(lab.connect(role, &more).await.unwrap(), tls(), "{mode:o}");
        } else {
            lab.refuses(role, &more, &["group or others have access to the key", "chmod 0600"]).await;
        }
    }
}
