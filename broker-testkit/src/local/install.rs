//! Where `scripts/setup` put the brokers.

use std::env;
use std::path::{Path, PathBuf};

use super::LocalError;

/// The directory that holds the installed brokers.
#[derive(Debug, Clone)]
pub struct Installation {
    cache: PathBuf,
}

impl Installation {
    /// `$ANYBROKER_CACHE`, else `anybroker` in the user's cache directory: the same place that `scripts/setup` fills.
    pub fn find() -> Result<Self, LocalError> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("ANYBROKER_CACHE")
            .or_else(|| {
                Some(
                    set("XDG_CACHE_HOME")
                        .or_else(|| Some(set("HOME")?.join(".cache")))?
                        .join("anybroker"),
                )
            })
            .map(|cache| Self { cache })
            .ok_or_else(|| LocalError::NotInstalled {
                what: "the cache directory of brokers".into(),
                looked_for: "one of the variables ANYBROKER_CACHE, XDG_CACHE_HOME and HOME".into(),
            })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.cache
    }

    /// Kafka's jars, as a class path that Java itself expands, and the version found there.
    pub(crate) fn kafka(&self) -> Result<(String, String), LocalError> {
        let jars = self.part("Kafka", "kafka/libs")?;
        let version = version_in(&jars, "kafka_2.13-", ".jar")?;
        Ok((format!("{}/*", jars.display()), version))
    }

    /// The program that runs Kafka.
    pub(crate) fn java(&self) -> Result<PathBuf, LocalError> {
        let home = env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin"));
        let path = env::var_os("PATH").unwrap_or_default();
        home.into_iter()
            .chain(env::split_paths(&path))
            .map(|folder| folder.join("java"))
            .find(|java| java.is_file())
            .ok_or_else(|| LocalError::NotInstalled {
                what: "a Java runtime".into(),
                looked_for: "java in JAVA_HOME and PATH".into(),
            })
    }

    /// The root of the small Debian system that holds a RabbitMQ, and the version found there.
    pub(crate) fn rabbitmq(&self, name: &str) -> Result<(PathBuf, String), LocalError> {
        let root = self.part("RabbitMQ", name)?;
        let library = self.part("RabbitMQ", &format!("{name}/usr/lib/rabbitmq/lib"))?;
        Ok((root, version_in(&library, "rabbitmq_server-", "")?))
    }

    fn part(&self, what: &str, name: &str) -> Result<PathBuf, LocalError> {
        let path = self.cache.join(name);
        if path.is_dir() { Ok(path) } else { Err(missing(what, &path)) }
    }
}

fn missing(what: &str, path: &Path) -> LocalError {
    LocalError::NotInstalled { what: what.into(), looked_for: path.display().to_string() }
}

/// The version in the name of the one file that is called like this.
fn version_in(folder: &Path, before: &str, after: &str) -> Result<String, LocalError> {
    let files =
        std::fs::read_dir(folder).map_err(LocalError::io(format!("list {}", folder.display())))?;
    files
        .flatten()
        .find_map(|file| {
            Some(file.file_name().to_str()?.strip_prefix(before)?.strip_suffix(after)?.to_owned())
        })
        .ok_or_else(|| missing(before, &folder.join(format!("{before}*{after}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let empty = tempfile::tempdir().unwrap();
        let installation = Installation { cache: empty.path().to_owned() };
        let error = installation.rabbitmq("rabbitmq-4").unwrap_err().to_string();
        assert!(error.contains("RabbitMQ is not installed"), "{error}");
        assert!(error.contains("run scripts/setup"), "{error}");
        assert!(installation.kafka().is_err());
    }

    #[test]
    fn the_version_is_read_from_the_installed_folder() {
        let cache = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(
            cache.path().join("rabbitmq-4/usr/lib/rabbitmq/lib/rabbitmq_server-4.0.5"),
        )
        .unwrap();
        let installation = Installation { cache: cache.path().to_owned() };
        assert_eq!(installation.rabbitmq("rabbitmq-4").unwrap().1, "4.0.5");
    }
}
