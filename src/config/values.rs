//! The settings as they were found, before their types: from variables, from a file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use broker_api::{Error, ErrorKind, Result};
use toml::{Table, Value as Toml};

use super::keys::{self, Key, Kind};
use super::unknown;

/// What was found for each setting. It is never shown as a whole, there are secrets in it.
#[derive(Default)]
pub(super) struct Values {
    found: BTreeMap<&'static str, Found>,
    /// Properties of librdkafka: their name there, and what was found.
    properties: BTreeMap<String, Found>,
    /// Variables that other libraries use for what a setting of ours needs.
    other_names: Vec<(&'static str, &'static str)>,
}

/// A value as text, and the name under which it was found.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) text: String,
    pub(super) name: String,
}

impl Values {
    /// From variables, and from the file that `BROKER_CONFIG` names among them.
    ///
    /// Empty variables count as not set, as `docker compose` and the like leave them.
    pub(super) fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self> {
        let mut values = Self::default();
        for (name, text) in variables {
            // Ours are all ASCII, so whatever is not UTF-8 is somebody else's.
            let Some(name) = name.to_str() else { continue };
            if text.is_empty() {
                continue;
            }
            let Some(key) = keys::by_variable(name) else {
                values.refuse_or_ignore(name)?;
                continue;
            };
            let text =
                text.into_string().map_err(|_| error(name, "the value is not valid UTF-8"))?;
            values.insert(key, Found { text, name: name.into() });
        }
        if let Some(file) = values.get(keys::BROKER_CONFIG) {
            let in_file = Self::from_file(Path::new(&file.text))
                .map_err(|error| error.with("setting", keys::BROKER_CONFIG.variable))?;
            values.fill_up(in_file);
        }
        Ok(values)
    }

    /// From a TOML file.
    pub(super) fn from_file(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|source| {
            configuration(format!("cannot read the file {shown}: {source}")).with_source(source)
        })?;
        Self::from_toml(&text).map_err(|error| error.with("file", shown))
    }

    /// From TOML.
    pub(super) fn from_toml(text: &str) -> Result<Self> {
        let table: Table = text.parse().map_err(|problem: toml::de::Error| {
            // Its `Display` prints the line, in which there may be a secret.
            let before = problem.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            configuration(format!("this is not TOML, line {line}: {}", problem.message()))
        })?;
        let mut values = Self::default();
        values.read_table("", &table)?;
        Ok(values)
    }

    fn read_table(&mut self, section: &str, table: &Table) -> Result<()> {
        for (name, value) in table {
            let name = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
            match (keys::by_file_name(&name), value) {
                (Some(key), Toml::Table(pairs)) if key.kind == Kind::Routes => {
                    let pair = |(pattern, broker): (&String, &Toml)| {
                        Ok(format!("{pattern}={}", scalar(&format!("{name}.{pattern}"), broker)?))
                    };
                    let pairs = pairs.iter().map(pair).collect::<Result<Vec<_>>>()?;
                    self.insert(key, Found { text: pairs.join(","), name });
                }
                (Some(key), Toml::Table(pairs)) if key.kind == Kind::Properties => {
                    for (property, value) in pairs {
                        let name = format!("{name}.{property}");
                        let text = scalar(&name, value)?;
                        self.properties.insert(property.clone(), Found { text, name });
                    }
                }
                (Some(key), Toml::Array(list)) if key.kind == Kind::Addresses => {
                    let list = list.iter().map(|value| scalar(&name, value));
                    let text = list.collect::<Result<Vec<_>>>()?.join(",");
                    self.insert(key, Found { text, name });
                }
                (Some(key), value) => {
                    let text = scalar(&name, value)?;
                    self.insert(key, Found { text, name });
                }
                (None, Toml::Table(inner)) if section.is_empty() && is_section(&name) => {
                    self.read_table(&name, inner)?;
                }
                (None, _) => {
                    let meant = unknown::nearest_in_file(&name)
                        .map(|meant| format!("; did you mean {meant}?"))
                        .unwrap_or_default();
                    return Err(error(&name, format!("there is no such setting{meant}")));
                }
            }
        }
        Ok(())
    }

    fn refuse_or_ignore(&mut self, name: &str) -> Result<()> {
        if let Some(meant) = unknown::misspelled_variable(name) {
            let text = format!("there is no such setting; did you mean {meant}?");
            return Err(error(name, text));
        }
        self.other_names.extend(unknown::OTHER_NAMES.iter().filter(|(other, _)| *other == name));
        Ok(())
    }

    fn insert(&mut self, key: &'static Key, found: Found) {
        match key.kind {
            Kind::Properties => {
                let property = found.name[key.variable.len()..].to_lowercase().replace('_', ".");
                self.properties.insert(property, found);
            }
            _ => drop(self.found.insert(key.variable, found)),
        }
    }

    /// Takes from `others` what is not set here.
    fn fill_up(&mut self, others: Self) {
        for (key, found) in others.found {
            self.found.entry(key).or_insert(found);
        }
        for (property, found) in others.properties {
            self.properties.entry(property).or_insert(found);
        }
    }

    /// What was found for a setting.
    pub(super) fn get(&self, key: &Key) -> Option<&Found> {
        self.found.get(key.variable)
    }

    /// The properties of librdkafka, by their names there.
    #[cfg(feature = "kafka")]
    pub(super) fn properties(&self) -> impl Iterator<Item = (&str, &Found)> {
        self.properties.iter().map(|(property, found)| (property.as_str(), found))
    }

    /// A hint for a setting that is missing: what is set under another library's name for it.
    pub(super) fn hint(&self, key: &Key) -> String {
        let found = self.other_names.iter().find(|(_, ours)| *ours == key.variable);
        found.map(|(other, _)| format!(" ({other} is set, but it is not read)")).unwrap_or_default()
    }

    /// The name under which a setting was found, else that of its variable.
    pub(super) fn name(&self, key: &Key) -> String {
        self.get(key).map_or(key.variable.into(), |found| found.name.clone())
    }

    /// An error of this setting.
    pub(super) fn wrong(&self, key: &Key, text: impl Into<String>) -> Error {
        error(&self.name(key), text)
    }

    /// The value of a setting, read by `parse`, whose error says what was expected.
    pub(super) fn parse<T>(
        &self,
        key: &Key,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>> {
        let Some(found) = self.get(key) else { return Ok(None) };
        let value = parse(found.text.trim()).map_err(|expected| match key.kind {
            Kind::Secret => error(&found.name, expected),
            _ => error(&found.name, format!("{:?} is not {expected}", shown(&found.text))),
        });
        value.map(Some)
    }
}

fn is_section(name: &str) -> bool {
    keys::ALL.iter().any(|key| key.file.split_once('.').is_some_and(|(section, _)| section == name))
}

/// A value of TOML as the text that a variable would have.
fn scalar(name: &str, value: &Toml) -> Result<String> {
    match value {
        Toml::String(text) => Ok(text.clone()),
        Toml::Integer(number) => Ok(number.to_string()),
        Toml::Float(number) => Ok(number.to_string()),
        Toml::Boolean(yes) => Ok(yes.to_string()),
        Toml::Datetime(_) | Toml::Array(_) | Toml::Table(_) => {
            Err(error(name, "expected a string, a number or a boolean"))
        }
    }
}

/// A value as an error may show it: not too long, and without what stands before an `@`, where a
/// misplaced URL has its password.
fn shown(text: &str) -> String {
    let text = text.rsplit_once('@').map_or(text.into(), |(_, rest)| format!("…@{rest}"));
    text.chars().take(64).collect()
}

/// An error of the setting of this name.
fn error(name: &str, text: impl Into<String>) -> Error {
    configuration(text.into()).with("setting", name)
}

/// An error of the configuration as a whole.
pub(super) fn configuration(text: String) -> Error {
    Error::new(ErrorKind::Configuration, "configure", text)
}
