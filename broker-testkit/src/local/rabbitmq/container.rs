//! The small Debian system that a program of RabbitMQ runs in.
//!
//! Each has namespaces of its own: that Debian is its file system, its directory is mounted there as `/instance`, and all
//! that it starts ends with it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::config::RabbitMqVersion;
use crate::local::launch::Launch;
use crate::local::{Installation, LocalError};

/// Run in new namespaces with the root, the instance's directory, the program to run in there and its arguments.
/// What is mounted here nobody else sees, and it is gone with the last process.
const ENTER: &str = r#"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount --bind "$2" "$1/instance"
root=$1
shift 2
exec chroot "$root" "$@""#;

/// That system, and which RabbitMQ is in it.
#[derive(Debug)]
pub(super) struct Container {
    root: PathBuf,
    pub(super) version: String,
}

impl Container {
    pub(super) fn of(version: RabbitMqVersion) -> Result<Self, LocalError> {
        let folder = match version {
            RabbitMqVersion::V3 => "rabbitmq-3",
            RabbitMqVersion::V4 => "rabbitmq-4",
        };
        let (root, version) = Installation::find()?.rabbitmq(folder)?;
        Ok(Self { root, version })
    }

    /// A program in there, with its arguments.
    pub(super) fn launch(
        &self,
        dir: &Path,
        program: &[&str],
        environment: Vec<(&'static str, OsString)>,
        outlives: bool,
    ) -> Launch {
        let enter = ["-ec".into(), ENTER.into(), "enter".into()];
        let places = [self.root.clone().into_os_string(), dir.into()];
        Launch {
            program: "sh".into(),
            arguments: enter
                .into_iter()
                .chain(places)
                .chain(program.iter().map(Into::into))
                .collect(),
            environment,
            contained: true,
            outlives,
        }
    }
}
