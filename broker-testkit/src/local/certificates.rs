//! Certificates for a test.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use tokio::process::Command;

use super::LocalError;
use super::dir::InstanceDir;
use super::tool::run_tool;

/// The names by which brokers of this machine are reached, and what a certificate may be used for.
const EXTENSIONS: &str =
    "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
const CURVE: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// An authority made for one test, and what it signed: a certificate for brokers on this machine, and one for a client.
/// Another [`generate`](Self::generate) is an authority that the first one's brokers do not know.
///
/// The files are in PEM, and gone when this is dropped.
#[derive(Debug)]
pub struct Certificates {
    dir: tempfile::TempDir,
}

/// What a broker needs of them.
#[derive(Debug, Clone)]
pub(crate) struct ServerFiles {
    pub(crate) authority: PathBuf,
    pub(crate) server: Identity,
}

impl ServerFiles {
    /// Copies them into the broker's own directory, for as long as it lives.
    pub(crate) fn copy_to(&self, dir: &InstanceDir) -> Result<(), LocalError> {
        let read = |file: &Path| {
            fs::read_to_string(file).map_err(LocalError::io(format!("read {}", file.display())))
        };
        let (certificate, key) = (read(&self.server.certificate)?, read(&self.server.key)?);
        dir.write("ca.pem", read(&self.authority)?)?;
        dir.write("server.both.pem", format!("{key}{certificate}"))?;
        dir.write("server.pem", certificate)?;
        dir.write("server.key", key)?;
        Ok(())
    }
}

/// Who somebody is, and the proof.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of its private key (PKCS #8), which is not encrypted.
    pub key: PathBuf,
}

impl Certificates {
    /// New ones, valid for a day, by the program `openssl`.
    pub async fn generate() -> Result<Self, LocalError> {
        let dir = tempfile::tempdir().map_err(LocalError::io("make a directory"))?;
        let certificates = Self { dir };
        let extensions = certificates.path("extensions");
        fs::write(&extensions, EXTENSIONS).map_err(LocalError::writing(&extensions))?;
        let (ca, ca_key) = (certificates.authority(), certificates.path("ca.key"));
        let subject = ["-nodes", "-subj", "/CN=test-ca", "-x509", "-days", "1", "-keyout"];
        let request = ["req"].iter().chain(&CURVE).chain(&subject).map(OsStr::new);
        openssl(request.chain([ca_key.as_ref(), "-out".as_ref(), ca.as_ref()])).await?;
        for name in ["server", "client"] {
            certificates.sign(name, &ca, &ca_key, &extensions).await?;
        }
        Ok(certificates)
    }

    async fn sign(
        &self,
        name: &str,
        ca: &Path,
        ca_key: &Path,
        extensions: &Path,
    ) -> Result<(), LocalError> {
        let Identity { certificate, key } = self.identity(name);
        let (request, subject) = (self.path("request"), format!("/CN={name}"));
        let arguments = ["-nodes", "-subj", &subject, "-keyout"];
        let arguments = ["req"].iter().chain(&CURVE).chain(&arguments).map(OsStr::new);
        openssl(arguments.chain([key.as_ref(), "-out".as_ref(), request.as_ref()])).await?;
        let files = [("-CA", ca), ("-CAkey", ca_key), ("-extfile", extensions)];
        let files = files.into_iter().chain([("-in", &*request), ("-out", &*certificate)]);
        let files = files.flat_map(|(option, file)| [OsStr::new(option), file.as_os_str()]);
        let arguments = ["x509", "-req", "-CAcreateserial", "-days", "1"].map(OsStr::new);
        openssl(arguments.into_iter().chain(files)).await
    }

    /// The file of the authority's certificate, by which the others are checked.
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// For brokers at `localhost` and 127.0.0.1.
    pub fn server(&self) -> Identity {
        self.identity("server")
    }

    /// For the client `client`, by its common name.
    pub fn client(&self) -> Identity {
        self.identity("client")
    }

    pub(crate) fn server_files(&self) -> ServerFiles {
        ServerFiles { authority: self.authority(), server: self.server() }
    }

    fn identity(&self, name: &str) -> Identity {
        Identity {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }
}

async fn openssl(arguments: impl Iterator<Item = impl AsRef<OsStr>>) -> Result<(), LocalError> {
    let mut command = Command::new("openssl");
    command.args(arguments);
    run_tool("openssl", command).await.map(drop).map_err(|error| match error {
        LocalError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            LocalError::NotInstalled { what: "openssl".into(), looked_for: "it in PATH".into() }
        }
        other => other,
    })
}
