//! The list of all settings for people.

use std::fmt::Write;

use super::keys::{ALL, Key, Kind};

/// A table in Markdown for each kind of broker.
pub(super) fn table() -> String {
    let mut text = String::new();
    for (heading, prefix) in
        [("For every broker", "BROKER"), ("Kafka", "KAFKA"), ("RabbitMQ", "RABBITMQ")]
    {
        // Writing to a `String` does not fail.
        let _ = write!(
            text,
            "### {heading}\n\n| variable | in a file | value | default | what it does |\n|---|---|---|---|---|\n"
        );
        for key in ALL.iter().filter(|key| key.variable.split('_').next() == Some(prefix)) {
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} | {} |",
                variable(key),
                file(key),
                key.kind.describe(),
                key.default,
                key.about
            );
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn variable(key: &Key) -> String {
    match key.kind {
        Kind::Properties => format!("{}…", key.variable),
        _ => key.variable.into(),
    }
}

fn file(key: &Key) -> String {
    match (key.file, key.kind) {
        ("", _) => "not in a file".into(),
        (file, Kind::Properties | Kind::Routes) => format!("`[{file}]`"),
        (file, _) => format!("`{file}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `UPDATE_DOCS=1` it writes the table there instead.
    #[test]
    fn the_document_lists_the_settings_as_they_are() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md");
        let document = std::fs::read_to_string(path).unwrap();
        let (before, rest) = document.split_once("<!-- settings -->\n").unwrap();
        let (listed, after) = rest.split_once("<!-- end of settings -->").unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let document =
                format!("{before}<!-- settings -->\n{}<!-- end of settings -->{after}", table());
            std::fs::write(path, document).unwrap();
            return;
        }
        assert_eq!(listed, table(), "run `UPDATE_DOCS=1 cargo test -p anybroker --lib`");
    }
}
