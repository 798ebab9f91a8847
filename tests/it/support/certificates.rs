//! Authorities of a test's own, and what they sign: by the command `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Who signs.
pub(crate) struct Authority {
    folder: TempDir,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// What is signed.
pub(crate) struct Wish<'a> {
    pub(crate) common_name: &'a str,
    /// As in `DNS:localhost,IP:127.0.0.1`; without any it is of version 1.
    pub(crate) names: Option<&'a str>,
    pub(crate) key: &'a [&'a str],
    /// As in `20200101000000Z`.
    pub(crate) until: &'a str,
}

pub(crate) const P256: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
pub(crate) const RSA: &[&str] = &["rsa:2048"];
pub(crate) const ED25519: &[&str] = &["ed25519"];
/// The names under which the tests reach their servers.
pub(crate) const HERE: &str = "DNS:localhost,IP:127.0.0.1";

impl Default for Wish<'_> {
    fn default() -> Self {
        Wish { common_name: "server", names: Some(HERE), key: P256, until: "20990101000000Z" }
    }
}

const CONFIGURATION: &str = "[ca]\ndefault_ca=all\n[all]\ndatabase=index.txt\nserial=serial\ncrlnumber=crlnumber\n\
    new_certs_dir=.\ndefault_md=sha256\npolicy=any\nunique_subject=no\ncrl_extensions=list\n[any]\ncommonName=supplied\n\
    [list]\nauthorityKeyIdentifier=keyid\n";

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let authority = Authority { folder: tempfile::tempdir().unwrap() };
        for (file, text) in
            [("ca.cnf", CONFIGURATION), ("index.txt", ""), ("serial", "01\n"), ("crlnumber", "01\n")]
        {
            fs::write(authority.path(file), text).unwrap();
        }
        authority.own(name, "ca", P256);
        authority
    }

    /// One whose own time is over, whatever it signs.
    pub(crate) fn expired(name: &str) -> Authority {
        let authority = Authority::new(name);
        let subject = format!("/CN={name}");
        let mut ask =
            authority.openssl(&["req", "-new", "-key", "ca.key", "-subj", &subject, "-out", "request"]);
        run(&mut ask);
        fs::write(authority.path("extensions"), "basicConstraints=critical,CA:TRUE\n").unwrap();
        let mut sign = authority.openssl(&["ca", "-batch", "-notext", "-config", "ca.cnf", "-selfsign"]);
        sign.args(["-keyfile", "ca.key", "-startdate", "20200101000000Z", "-enddate", "20210101000000Z"]);
        run(sign.args(["-extfile", "extensions", "-in", "request", "-out", "ca.crt"]));
        authority
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Its own certificate.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// One that signs itself.
    fn own(&self, common_name: &str, file: &str, key: &[&str]) -> Pair {
        let (subject, constraints) = (format!("/CN={common_name}"), "basicConstraints=critical,CA:TRUE");
        let pair = self.pair(file);
        let names = format!("subjectAltName={HERE}");
        let mut command =
            self.openssl(&["req", "-x509", "-nodes", "-days", "9000", "-subj", &subject, "-newkey"]);
        command.args(key).args(["-addext", constraints, "-addext", &names]);
        run(command.arg("-keyout").arg(&pair.key).arg("-out").arg(&pair.certificate));
        pair
    }

    /// As many make it: a server's certificate that is an authority's as well.
    pub(crate) fn self_signed(&self, key: &[&str]) -> Pair {
        self.own("alone", "alone", key)
    }

    fn pair(&self, name: &str) -> Pair {
        Pair { certificate: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) }
    }

    pub(crate) fn sign(&self, name: &str, wish: &Wish<'_>) -> Pair {
        let (pair, request, subject) =
            (self.pair(name), self.path("request"), format!("/CN={}", wish.common_name));
        let mut ask = self.openssl(&["req", "-new", "-nodes", "-subj", &subject, "-newkey"]);
        run(ask.args(wish.key).arg("-keyout").arg(&pair.key).arg("-out").arg(&request));
        let mut sign = self.openssl(&["ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.crt"]);
        sign.args(["-keyfile", "ca.key", "-startdate", "20200101000000Z", "-enddate", wish.until]);
        if let Some(names) = wish.names {
            let text = format!("basicConstraints=CA:FALSE\nsubjectAltName={names}\n");
            fs::write(self.path("extensions"), text).unwrap();
            sign.args(["-extfile", "extensions"]);
        }
        run(sign.arg("-in").arg(&request).arg("-out").arg(&pair.certificate));
        pair
    }

    pub(crate) fn revoke(&self, certificate: &Path) {
        let mut command = self.openssl(&["ca", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key"]);
        run(command.arg("-revoke").arg(certificate));
    }

    /// The list of those that it has revoked until now.
    pub(crate) fn list(&self, name: &str) -> PathBuf {
        let list = self.path(name);
        let mut command = self.openssl(&["ca", "-gencrl", "-crldays", "30", "-config", "ca.cnf"]);
        run(command.args(["-cert", "ca.crt", "-keyfile", "ca.key", "-out"]).arg(&list));
        list
    }

    /// A key in another form: what `openssl` is told, after the key's file and before the new one's.
    pub(crate) fn convert(&self, key: &Path, name: &str, how: &[&str]) -> PathBuf {
        let converted = self.path(name);
        let mut command = self.openssl(&how[..1]);
        run(command.arg("-in").arg(key).args(&how[1..]).arg("-out").arg(&converted));
        converted
    }

    fn openssl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(self.folder.path());
        command
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("openssl is installed: scripts/install test");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the text of a certificate has this in it.
pub(crate) fn says(certificate: &Path, text: &str) -> bool {
    let mut command = Command::new("openssl");
    let output = command.args(["x509", "-noout", "-text", "-in"]).arg(certificate).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(text)
}
