//! The figures in their place in a page.

use std::fs;
use std::path::Path;

use broker_api::BoxError;

const BEGIN: &str = "<!-- figures by scripts/bench -->";
const END: &str = "<!-- end of the figures -->";

/// Replaces the figures that the page has.
///
/// # Errors
/// When the page cannot be read or written, or has no place for them.
pub(crate) fn write(page: &Path, figures: &str) -> Result<(), BoxError> {
    let text = fs::read_to_string(page)?;
    Ok(fs::write(page, replaced(&text, figures).ok_or("the page has no place for the figures")?)?)
}

fn replaced(text: &str, figures: &str) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n{}\n{END}{tail}", figures.trim_end()))
}

/// The machine and the moment, in a line.
pub(crate) fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models: Vec<_> = cpus.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models.first().and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown");
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
    format!("{} cores of {model}; the load average was {load} when it ended", models.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_figures_are_replaced() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(replaced(&page, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(replaced("nothing", "new").is_none());
    }
}
