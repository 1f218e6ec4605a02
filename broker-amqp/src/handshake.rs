//! What answers at an address, found out before the client connects.

use std::fmt;
use std::time::Duration;

use broker_api::{Error, ErrorKind, Result};
use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::tcp::{AMQPUriTcpExt, OwnedTLSConfig};
use lapin::types::{AMQPValue, parsing::parse_field_table};
use lapin::uri::AMQPUri;

/// The version of RabbitMQ, as it says when a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| {
            part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>()
        });
        Some(Self { major: parts.next()?.ok()?, minor: parts.next()?.ok()? })
    }

    /// Whether `x-priority` decides which single active consumer is the active one.
    pub(crate) fn has_consumer_priorities(self) -> bool {
        self.major >= 4
    }

    /// The largest payload that the broker takes where its operator changed nothing.
    pub(crate) fn max_payload_bytes(self) -> usize {
        if self.major >= 4 { 16 * 1024 * 1024 } else { 128 * 1024 * 1024 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Asks what is at the address, and hangs up.
///
/// lapin does not tell the server's properties, and a connection that it began to a server that
/// never answers keeps a thread until the server does. A look beforehand gives the version, finds
/// what is no RabbitMQ, and keeps lapin away from it.
pub(crate) async fn look(
    uri: &AMQPUri,
    tls: &OwnedTLSConfig,
    patience: Duration,
) -> Result<Version> {
    let (host, port) = (&uri.authority.host, uri.authority.port);
    let unavailable = |why: String| {
        let text = format!(
            "{host}:{port}: {why}; check that RabbitMQ is running there, and that host, port and \
             scheme (amqp:// plain, amqps:// encrypted) are right"
        );
        Error::new(ErrorKind::Unavailable, "connect", text).transient()
    };
    let asked = tokio::time::timeout(patience, ask(uri, tls)).await;
    match asked {
        Err(_) => Err(unavailable(format!("no answer within {patience:?}"))),
        Ok(Err(Failed::Connect(error) | Failed::Talk(error)))
            if let Some((field, remedy)) = certificate(&error) =>
        {
            let text = format!("{host}:{port}: {error}; {remedy}");
            let refused = Error::new(ErrorKind::Unavailable, "connect", text).transient();
            Err(refused.with("field", field).with_source(error))
        }
        Ok(Err(Failed::Connect(error))) => {
            Err(unavailable(format!("cannot connect: {error}")).with_source(error))
        }
        Ok(Err(Failed::Talk(error))) => {
            let why = format!("connected, but what is there does not speak AMQP: {error}");
            Err(unavailable(why).with_source(error))
        }
        Ok(Err(Failed::Foreign)) => {
            Err(unavailable("connected, but what is there does not speak AMQP 0-9-1".into()))
        }
        Ok(Ok(version)) => Ok(version),
    }
}

enum Failed {
    Connect(std::io::Error),
    Talk(std::io::Error),
    Foreign,
}

async fn ask(uri: &AMQPUri, tls: &OwnedTLSConfig) -> Result<Version, Failed> {
    let runtime = lapin::runtime::default_runtime()
        .map_err(|error| Failed::Connect(std::io::Error::other(error)))?;
    let mut stream =
        uri.connect_with_config_async(tls.as_ref(), &runtime).await.map_err(Failed::Connect)?;
    stream.write_all(b"AMQP\x00\x00\x09\x01").await.map_err(Failed::Talk)?;
    stream.flush().await.map_err(Failed::Talk)?;
    // A frame: type, channel, length; then the method connection.start and its arguments.
    let mut head = [0; 7];
    stream.read_exact(&mut head).await.map_err(Failed::Talk)?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if head[..3] != [1, 0, 0] || !(6..=131_072).contains(&length) {
        return Err(Failed::Foreign);
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await.map_err(Failed::Talk)?;
    version_of(&frame).ok_or(Failed::Foreign)
}

/// Which of our settings is to be looked at, where one of the two sides does not trust the other.
/// Known by their texts only: lapin wraps the errors of its TLS library, which is none of ours.
fn certificate(error: &std::io::Error) -> Option<(&'static str, &'static str)> {
    let text = error.to_string();
    if text.contains("invalid peer certificate") {
        let remedy = "the broker's certificate is not trusted: give the authority that signed it, \
                      and the host's name as it is in the certificate";
        return Some(("ca_pem", remedy));
    }
    let alerts = ["CertificateRequired", "BadCertificate", "UnknownCA", "CertificateUnknown"];
    let refused = text.contains("fatal alert") && alerts.iter().any(|alert| text.contains(alert));
    let remedy = "the broker wants a client's certificate that it trusts, and its key";
    refused.then_some(("client_identity_pem", remedy))
}

/// Reads the version from the arguments of connection.start. A server that keeps it for itself
/// counts as the oldest one.
fn version_of(start: &[u8]) -> Option<Version> {
    let properties = start.strip_prefix(&[0, 10, 0, 10, 0, 9])?;
    let (_, properties) = parse_field_table(properties).ok()?;
    let version = properties.inner().get("version").and_then(AMQPValue::as_long_string);
    Some(version.and_then(|v| Version::parse(&v.to_string())).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(Version::parse("3.10.8"), Some(Version { major: 3, minor: 10 }));
        assert_eq!(Version::parse("4.1.0-rc.1"), Some(Version { major: 4, minor: 1 }));
        assert!(Version::parse("4.0.5") > Version::parse("3.13.7"));
        assert_eq!(Version::parse("four"), None);
        assert!(!Version::default().has_consumer_priorities());
    }

    #[test]
    fn what_is_no_connection_start_has_no_version() {
        assert_eq!(version_of(b""), None);
        assert_eq!(version_of(&[0, 10, 0, 11, 0, 9, 0, 0, 0, 0]), None);
        assert_eq!(version_of(&[0, 10, 0, 10, 0, 9, 0, 0, 0, 0]), Some(Version::default()));
    }
}
