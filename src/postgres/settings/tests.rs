use std::net::IpAddr;

use tokio_postgres::config::Host;

use super::*;

fn os() -> Os {
    Os { user: Some("me".to_owned()), socket_dir: "/run/pg".to_owned() }
}

fn resolve(text: &str, variables: &[(&str, &str)]) -> Result<Settings, OutboxError> {
    let variable =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Settings::resolve(Some(text), variable, &os())
}

#[test]
fn string_over_environment_over_defaults() {
    for (text, variables, expected) in [
        ("", &[][..], "me on /run/pg:5432 as me"),
        ("postgresql://", &[], "me on /run/pg:5432 as me"),
        ("dbname=shop", &[], "shop on /run/pg:5432 as me"),
        ("user=app", &[], "app on /run/pg:5432 as app"),
        ("user=app", &[("PGDATABASE", "shop"), ("PGUSER", "other")], "shop on /run/pg:5432 as app"),
        (
            "",
            &[("PGHOST", "h"), ("PGPORT", "5433"), ("PGUSER", "u"), ("PGDATABASE", "d")],
            "d on h:5433 as u",
        ),
        (
            "",
            &[("PGHOST", ""), ("PGPORT", ""), ("PGUSER", ""), ("PGDATABASE", "")],
            "me on /run/pg:5432 as me",
        ),
        ("host=''", &[("PGHOST", "h")], "me on /run/pg:5432 as me"),
        ("postgresql:///shop", &[("PGHOST", "h"), ("PGPORT", "7")], "shop on h:7 as me"),
        ("postgresql://x/shop", &[("PGHOST", "h"), ("PGPORT", "7")], "shop on x:7 as me"),
        ("postgresql://%2Fsock/shop", &[], "shop on /sock:5432 as me"),
        ("postgresql:///shop?host=/socket/dir", &[], "shop on /socket/dir:5432 as me"),
        ("postgresql://a:1,b,[::1]:3/d", &[], "d on a:1, b:5432, [::1]:3 as me"),
        ("host=a,b port=5433", &[], "me on a:5433, b:5433 as me"),
        ("host=a,,b port=1,,3", &[], "me on a:1, /run/pg:5432, b:3 as me"),
        ("hostaddr=10.0.0.1,10.0.0.2", &[], "me on 10.0.0.1:5432, 10.0.0.2:5432 as me"),
        ("host=a,b hostaddr=10.0.0.1,", &[], "me on a:5432, b:5432 as me"),
        ("postgres://a/d?host=b&port=9", &[], "d on b:9 as me"),
    ] {
        assert_eq!(resolve(text, variables).expect(text).to_string(), expected, "{text} {variables:?}");
    }
}

#[test]
fn every_candidate_is_a_config_of_one_server() {
    let text = "host=a,b hostaddr=10.0.0.1, port=1,2 user=u dbname=d password=p options='-c x=y' \
                tcp_user_timeout=1500 keepalives=0 keepalives_idle=9 keepalives_interval=3 keepalives_count=4 \
                target_session_attrs=primary application_name=app channel_binding=disable";
    let settings = resolve(text, &[]).unwrap();
    let configs: Vec<Config> = settings.candidates().iter().map(Candidate::config).collect();
    assert_eq!(settings.target_session_attrs(), TargetSessionAttrs::ReadWrite);
    assert_eq!(configs[0].get_hosts(), [Host::Tcp("a".to_owned())]);
    assert_eq!(configs[0].get_hostaddrs(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(configs[1].get_hosts(), [Host::Tcp("b".to_owned())]);
    assert!(configs[1].get_hostaddrs().is_empty());
    for (config, port) in configs.iter().zip([1, 2]) {
        assert_eq!(config.get_ports(), [port]);
        assert_eq!((config.get_user(), config.get_dbname()), (Some("u"), Some("d")));
        assert_eq!(config.get_password(), Some(&b"p"[..]));
        assert_eq!(config.get_options(), Some("-c x=y"));
        assert_eq!(config.get_application_name(), Some("app"));
        assert_eq!(
            config.get_tcp_user_timeout(),
            Some(&Duration::from_millis(1500)),
            "milliseconds, as libpq"
        );
        assert!(!config.get_keepalives());
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(9));
        assert_eq!(config.get_keepalives_interval(), Some(Duration::from_secs(3)));
        assert_eq!(config.get_keepalives_retries(), Some(4));
        assert_eq!(config.get_ssl_mode(), SslMode::Disable);
        assert_eq!(config.get_channel_binding(), ChannelBinding::Disable);
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }
}

#[test]
fn single_settings_follow_libpq() {
    let config =
        |text, variables: &[(&str, &str)]| resolve(text, variables).unwrap().candidates()[0].config();
    for (text, variables, expected) in [
        ("", &[][..], "walpost"),
        ("fallback_application_name=f", &[], "f"),
        ("fallback_application_name=f", &[("PGAPPNAME", "e")], "e"),
        ("application_name=a", &[("PGAPPNAME", "e")], "a"),
    ] {
        assert_eq!(config(text, variables).get_application_name(), Some(expected), "{text}");
    }
    for (text, variables, expected) in [
        ("", &[][..], Some(10)),
        ("connect_timeout=30", &[("PGCONNECT_TIMEOUT", "5")], Some(30)),
        ("", &[("PGCONNECT_TIMEOUT", " 5 ")], Some(5)),
        ("connect_timeout=1", &[], Some(2)),
        ("connect_timeout=0", &[], None),
        ("connect_timeout=-1", &[], None),
    ] {
        let timeout = config(text, variables).get_connect_timeout().map(Duration::as_secs);
        assert_eq!(timeout, expected, "{text} {variables:?}");
    }
    for (value, expected) in [
        ("any", TargetSessionAttrs::Any),
        ("prefer-standby", TargetSessionAttrs::Any),
        ("read-write", TargetSessionAttrs::ReadWrite),
        ("primary", TargetSessionAttrs::ReadWrite),
        ("read-only", TargetSessionAttrs::ReadOnly),
        ("standby", TargetSessionAttrs::ReadOnly),
    ] {
        let settings = resolve("", &[("PGTARGETSESSIONATTRS", value)]).unwrap();
        assert_eq!(settings.target_session_attrs(), expected, "{value}");
    }
    for text in [
        "sslmode=disable",
        "sslmode=allow",
        "sslmode=prefer",
        "sslmode=verify-full channel_binding=require",
        "sslmode=require sslnegotiation=direct sslrootcert=/ca",
        "sslrootcert=/ca sslcert=/c sslkey=/k gssencmode=prefer krbsrvname=postgres client_encoding=auto",
        "load_balance_hosts=disable sslnegotiation=postgres service=''",
    ] {
        assert!(resolve(text, &[]).is_ok(), "{text}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (text, variables, expected) in [
        ("nonsense=1", &[][..], "`nonsense` is unknown"),
        ("postgresql://h?nonsense=1", &[], "`nonsense` is unknown"),
        ("sslmode=prefer sslrootcert=system", &[], "`sslmode` can only be verify-full"),
        (
            "",
            &[("PGSSLNEGOTIATION", "direct")],
            "`sslnegotiation` (from PGSSLNEGOTIATION) = direct asks for sslmode",
        ),
        ("sslmode=on", &[], "`sslmode` is none of disable,"),
        ("sslkeylogfile=/keys", &[], "`sslkeylogfile` would write"),
        ("gssencmode=require", &[], "`gssencmode` = require"),
        ("", &[("PGCHANNELBINDING", "yes")], "`channel_binding` (from PGCHANNELBINDING) is none of"),
        ("target_session_attrs=master", &[], "`target_session_attrs` is none of any, read-write"),
        ("load_balance_hosts=random", &[], "`load_balance_hosts` can only be `disable`"),
        ("service=prod", &[], "`service` is not supported"),
        ("", &[("PGSERVICE", "prod")], "`service` (from PGSERVICE) is not supported"),
        ("require_auth=none", &[], "`require_auth` is not supported"),
        ("replication=database", &[], "`replication` is set by the relay itself"),
        ("port=0", &[], "`port` is not a number from 1 to 65535"),
        ("port=65536", &[], "`port` is not a number"),
        ("", &[("PGPORT", "x")], "`port` (from PGPORT) is not a number"),
        ("postgresql://u:sesame/d", &[], "`port` is not a number"),
        ("host=a,b port=1,2,3", &[], "`port` has neither one entry"),
        ("host=a,b hostaddr=10.0.0.1", &[], "`hostaddr` has not as many entries as `host`"),
        ("hostaddr=localhost", &[], "`hostaddr` is not a numeric IP address"),
        ("host=@abstract", &[], "`host` names an abstract socket"),
        ("connect_timeout=5s", &[], "`connect_timeout` is not a whole number"),
    ] {
        let error = resolve(text, variables).expect_err(text);
        assert!(error.is_usage() && error.advice().is_some(), "{error:?}");
        assert!(error.to_string().contains(expected), "{text}: {error}");
        assert!(!error.chain().contains("sesame"), "{error}");
    }
    let nobody = Os { user: None, ..os() };
    let error = Settings::resolve(None, |_| None, &nobody).unwrap_err();
    assert!(error.to_string().contains("`user` is missing"), "{error}");
}

#[test]
fn no_text_form_shows_a_password() {
    for text in ["postgresql://u:sesame@h/d", "password=sesame", "postgresql:///d?password=sesame"] {
        let settings = resolve(text, &[("PGPASSWORD", "sesame")]).unwrap();
        let seen = format!("{settings} {settings:?} {:?}", settings.candidates()[0].config());
        assert!(!seen.contains("sesame"), "{seen}");
        assert!(has_password(text));
    }
    for text in ["", "postgresql://u@h/d", "postgresql://u:@h", "password=''", "no setting"] {
        assert!(!has_password(text), "{text}");
    }
}

/// A password that is refused is looked for where it came from.
#[cfg(unix)]
#[test]
fn a_refused_password_is_said_to_come_from_where_it_came() {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pass");
    write(&path, "*:*:*:*:sesame\n").unwrap();
    set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let file = path.to_str().unwrap();
    let of = |text: &str, variables: &[(&str, &str)]| resolve(text, variables).unwrap();
    let command = SecretSource::Command("echo sesame".into());
    for (settings, expected, passes) in [
        (of("user=u", &[("PGPASSWORD", "sesame")]), "came from PGPASSWORD".to_owned(), false),
        (
            of("user=u password=sesame", &[("PGPASSWORD", "x")]),
            "came from the connection string".to_owned(),
            false,
        ),
        (
            of("user=u", &[("PGPASSFILE", file)]),
            format!("again for each try, from the password file {file}"),
            true,
        ),
        (
            of("user=u", &[("PGPASSWORD", "x")]).with_password_from(SecretSource::File(path.clone())),
            format!("again for each try, from the file {file} (--password-file)"),
            true,
        ),
        (
            of("user=u", &[]).with_password_from(command),
            "from the command of --password-command".to_owned(),
            true,
        ),
    ] {
        let refused = || OutboxError::server("logging in", "28P01", "password authentication failed");
        let error = settings.candidates()[0].endpoint().judge(refused());
        let advice = error.advice().unwrap();
        assert!(
            advice.contains(&expected) && advice.ends_with("put the one there that role u has now"),
            "{advice}"
        );
        assert!(!advice.contains("sesame"), "{advice}");
        assert_eq!(error.is_transient(), passes, "{advice}");
    }
}

#[cfg(unix)]
#[test]
fn the_password_file_is_read_again_at_each_connection() {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(".pgpass");
    let lines = "localhost:5432:d:u:socket\n/other:*:*:*:other\n10.0.0.1:*:*:*:address\nh:5433:*:*:named\n";
    let (home, file) = (home.path().to_str().unwrap(), path.to_str().unwrap());
    write(&path, lines).unwrap();
    set_permissions(&path, Permissions::from_mode(0o600)).unwrap();

    let by_home = &[("HOME", home)][..];
    let by_variable = &[("PGPASSFILE", file)][..];
    for (text, variables, expected) in [
        ("user=u dbname=d", by_home, Some("socket")),
        ("user=u dbname=d", by_variable, Some("socket")),
        ("user=u dbname=d host=localhost", by_home, Some("socket")),
        ("user=u dbname=d host=/other", by_home, Some("other")),
        ("hostaddr=10.0.0.1", by_home, Some("address")),
        ("host=h hostaddr=10.0.0.1 port=5433", by_home, Some("named")),
        ("host=h", by_home, None),
        ("user=u dbname=d password=given", by_home, Some("given")),
        ("user=u dbname=d passfile=/nowhere", by_variable, None),
        ("user=u dbname=d", &[], None),
    ] {
        let config = resolve(text, variables).unwrap().candidates()[0].config();
        assert_eq!(config.get_password(), expected.map(str::as_bytes), "{text}");
    }

    let settings = resolve("user=u dbname=d", by_home).unwrap();
    write(&path, "*:*:*:*:changed").unwrap();
    assert_eq!(settings.candidates()[0].config().get_password(), Some(&b"changed"[..]));
}
