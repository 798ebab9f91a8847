//! Where spans go: `--otlp-endpoint`, else what OpenTelemetry's own variables say.
//!
//! Source: OpenTelemetry specification, "OTLP Exporter Configuration" and "Environment Variable Specification".

use std::fmt;
use std::path::PathBuf;

use axum::http::Uri;
use axum::http::uri::Scheme;

use super::Environment;
use super::layers::{self, Layers};
use crate::error::OutboxError;

const PATH: &str = "/v1/traces";
const FORM: &str = "write http:// or https:// and host:port, such as http://localhost:4318, where a collector takes OTLP \
                    over HTTP; or off";

/// What shall become of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traces {
    /// Nobody asked for them.
    Off,
    /// They are sent there.
    To(Box<Collector>),
    /// Somebody asked for them in a way that this version does not know; why.
    Impossible(String),
}

/// A collector that takes OTLP over HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct Collector {
    /// `host:port`.
    pub authority: String,
    /// Where it takes spans.
    pub path: String,
    /// How the way to it is encrypted, if it is.
    pub tls: Option<CollectorTls>,
    /// What each request bears besides its own headers; may hold secrets.
    pub headers: Vec<(String, String)>,
    /// What the spans' sender is called, and more of its kind.
    pub resource: Vec<(String, String)>,
}

/// Files in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorTls {
    /// The authorities to trust, instead of those of the operating system.
    pub roots: Option<PathBuf>,
    /// What we show: a certificate and its key.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "Collector({scheme}://{}{})", self.authority, self.path)
    }
}

impl Traces {
    pub(super) fn resolve(layers: &Layers, environment: &Environment) -> Result<Traces, OutboxError> {
        let own = layers.get(&layers::OTLP_ENDPOINT);
        match own.text {
            "off" => Ok(Traces::Off),
            "" => Ok(Traces::standard(environment)),
            url => match place(url, true) {
                Ok(place) => Ok(Traces::to(place, environment)),
                Err(what) => Err(own.wrong(&what, FORM)),
            },
        }
    }

    /// What other programs of the same environment would do. What is wrong there may be meant for those, so it keeps
    /// no relay from running.
    fn standard(environment: &Environment) -> Traces {
        let is = |name, value: &str| environment.get(name).is_some_and(|set| set.eq_ignore_ascii_case(value));
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Traces::Off;
        }
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL");
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL");
        let (name, is_base) =
            if environment.get(traces.0).is_some() { (traces.0, false) } else { (all.0, true) };
        let Some(url) = environment.get(name) else { return Traces::Off };
        let protocol = environment.get(traces.1).or(environment.get(all.1));
        if protocol == Some("grpc") {
            let protocol = if environment.get(traces.1).is_some() { traces.1 } else { all.1 };
            return Traces::Impossible(format!("{protocol} is grpc, and this version speaks OTLP over HTTP"));
        }
        match place(url, is_base) {
            Ok(place) => Traces::to(place, environment),
            Err(what) => Traces::Impossible(format!("{name}: {what}")),
        }
    }

    fn to(place: Place, environment: &Environment) -> Traces {
        let Place { authority, path, is_https } = place;
        // One for traces goes over one for all that is exported.
        let get = |what: &str| {
            let own = environment.get(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"));
            own.or(environment.get(&format!("OTEL_EXPORTER_OTLP_{what}")))
        };
        let file = |what| get(what).map(PathBuf::from);
        let tls = is_https.then(|| CollectorTls {
            roots: file("CERTIFICATE"),
            own: file("CLIENT_CERTIFICATE").zip(file("CLIENT_KEY")),
        });
        let mut resource = pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
        if let Some(name) = environment.get("OTEL_SERVICE_NAME") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name.to_owned()));
        }
        for (key, value) in [("service.name", "walpost"), ("service.version", env!("CARGO_PKG_VERSION"))] {
            if !resource.iter().any(|(known, _)| known == key) {
                resource.push((key.to_owned(), value.to_owned()));
            }
        }
        let headers = pairs(get("HEADERS").unwrap_or_default());
        Traces::To(Box::new(Collector { authority, path, tls, headers, resource }))
    }
}

/// What a URL says.
#[derive(Debug)]
struct Place {
    /// `host:port`.
    authority: String,
    path: String,
    is_https: bool,
}

/// Takes a URL apart; the path for spans goes behind that of a base.
fn place(url: &str, is_base: bool) -> Result<Place, String> {
    // The URL itself may hold a password.
    let uri: Uri = url.trim().parse().map_err(|_| "it is not a URL".to_owned())?;
    let is_https = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => false,
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        _ => return Err("it begins neither with http:// nor with https://".to_owned()),
    };
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
        return Err("it has no host".to_owned());
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("a user is named in it; use OTEL_EXPORTER_OTLP_HEADERS".to_owned());
    }
    let authority = format!("{host}:{}", uri.port_u16().unwrap_or(if is_https { 443 } else { 80 }));
    let own = uri.path_and_query().map_or("/", |path| path.as_str());
    let base = own.trim_end_matches('/');
    let path = if is_base && !base.ends_with(PATH) { format!("{base}{PATH}") } else { own.to_owned() };
    Ok(Place { authority, path, is_https })
}

/// `key=value,key=value`, with what is not plain written as `%20`. Entries of another form are passed over.
fn pairs(text: &str) -> Vec<(String, String)> {
    let entries = text.split(',').filter_map(|entry| entry.split_once('='));
    let entries = entries.map(|(key, value)| (decoded(key.trim()), decoded(value.trim())));
    entries.filter(|(key, _)| !key.is_empty()).collect()
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, others)) = rest.split_first() {
        let coded = others.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let coded = coded.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(coded.unwrap_or(*first));
        rest = if coded.is_some() { &others[2..] } else { others };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard(variables: &[(&str, &str)]) -> Traces {
        Traces::standard(&Environment::new(variables.iter().copied()).unwrap())
    }

    fn collector(variables: &[(&str, &str)]) -> Collector {
        match standard(variables) {
            Traces::To(collector) => *collector,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_variables_of_opentelemetry_are_read_as_elsewhere() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert_eq!(standard(&[]), Traces::Off);
        assert_eq!(standard(&[all, ("OTEL_SDK_DISABLED", "TRUE")]), Traces::Off);
        assert_eq!(standard(&[all, ("OTEL_TRACES_EXPORTER", "none")]), Traces::Off);
        let found = collector(&[all]);
        assert_eq!((found.authority.as_str(), found.path.as_str()), ("collector:4318", "/v1/traces"));
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://h/here?x=1");
        let found = collector(&[all, own]);
        assert_eq!((found.authority.as_str(), found.path.as_str()), ("h:80", "/here?x=1"));
        for (name, value, why) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "h:4318", "begins neither with http://"),
        ] {
            match standard(&[all, (name, value)]) {
                Traces::Impossible(what) => assert!(what.contains(why), "{what}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert_ne!(standard(&[all, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]), Traces::Off);
    }

    #[test]
    fn names_and_headers_are_taken_and_headers_are_not_shown() {
        let found = collector(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:1/base/"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod,service.name=other,team=a%20b%,=x,y"),
            ("OTEL_SERVICE_NAME", "outbox"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20sesame"),
        ]);
        assert_eq!(found.path, "/base/v1/traces");
        assert_eq!(found.headers, [("Authorization".to_owned(), "Bearer sesame".to_owned())]);
        let resource: Vec<_> =
            found.resource.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let version = env!("CARGO_PKG_VERSION");
        let expected = [
            ("deployment.environment", "prod"),
            ("team", "a b%"),
            ("service.name", "outbox"),
            ("service.version", version),
        ];
        assert_eq!(resource, expected);
        assert!(!format!("{found:?}").contains("sesame"));
    }

    #[test]
    fn files_are_for_https_and_those_for_traces_go_first() {
        let all = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/all.crt");
        assert_eq!(collector(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"), all]).tls, None);
        let secure = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://h");
        assert_eq!(collector(&[secure]).tls, Some(CollectorTls::default()));
        let found = collector(&[
            secure,
            all,
            ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/traces.crt"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/own.crt"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/own.key"),
        ]);
        let own = Some(("/own.crt".into(), "/own.key".into()));
        assert_eq!(found.tls, Some(CollectorTls { roots: Some("/traces.crt".into()), own }));
    }

    #[test]
    fn a_url_is_a_place_or_says_what_is_wrong() {
        for (url, expected) in [
            ("http://localhost:4318", Ok(("localhost:4318", "/v1/traces"))),
            ("http://localhost:4318/v1/traces", Ok(("localhost:4318", "/v1/traces"))),
            ("http://[::1]:4318/", Ok(("[::1]:4318", "/v1/traces"))),
            ("https://otlp.example.com", Ok(("otlp.example.com:443", "/v1/traces"))),
            ("localhost:4318", Err("http://")),
            ("ftp://h", Err("http://")),
            ("http://user:sesame@h", Err("a user is named")),
            ("http://h\u{e9} x", Err("not a URL")),
        ] {
            match (place(url, true), expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!((found.authority.as_str(), found.path.as_str()), expected);
                    assert_eq!(found.is_https, url.starts_with("https"));
                }
                (Err(what), Err(why)) => assert!(what.contains(why) && !what.contains("sesame"), "{what}"),
                (found, _) => panic!("{url}: {found:?}"),
            }
        }
    }
}
