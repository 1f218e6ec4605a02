//! The pages in `docs/`: the code they show is compiled, and `SEMANTICS.md` names the cases of the
//! conformance suite that prove each of its promises.

use std::collections::BTreeSet;
use std::path::Path;

use broker_testkit::conformance::{Case, cases};

const SEMANTICS: &str = include_str!("../docs/SEMANTICS.md");

#[test]
fn every_page_with_code_is_among_the_documentation_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crate_root = std::fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let mut pages = 0;
    for entry in std::fs::read_dir(root.join("docs")).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{:?}", entry.file_name());
        if std::fs::read_to_string(entry.path()).unwrap().contains("```rust") {
            assert!(crate_root.contains(&name), "{name} is not compiled");
            pages += 1;
        }
    }
    assert!(pages > 0, "no page was found");
}

/// The cases that a text names: `subject::name` in backticks.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|code| code.contains("::") && !code.contains('('))
}

fn is_type(code: &str) -> bool {
    code.starts_with(char::is_uppercase)
}

#[test]
fn every_case_that_is_named_exists() {
    let known: BTreeSet<String> = cases().map(|case| case.name()).collect();
    let unknown: Vec<_> =
        named(SEMANTICS).filter(|code| !is_type(code) && !known.contains(*code)).collect();
    assert!(unknown.is_empty(), "no such cases: {unknown:#?}");
}

#[test]
fn every_promise_names_a_case() {
    let mut promises = 0;
    for row in SEMANTICS.lines().filter(|line| line.starts_with('|')) {
        let is_heading = row.ends_with("| proved by |") || row.starts_with("|---");
        if !is_heading {
            promises += 1;
            let proof = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
            assert!(named(proof).any(|code| !is_type(code)), "nothing proves it: {row}");
        }
    }
    assert!(promises > 50, "only {promises} rows were found");
}

#[test]
fn every_subject_of_the_suite_and_every_capability_has_its_row() {
    let subjects: BTreeSet<_> =
        named(SEMANTICS).filter_map(|code| code.split("::").next()).collect();
    let missing: BTreeSet<_> =
        cases().map(|case: Case| case.subject()).filter(|s| !subjects.contains(s)).collect();
    assert!(missing.is_empty(), "nothing is said of {missing:?}");
    for capability in cases().flat_map(|case| case.needs()) {
        let row = format!("| **{capability}**");
        assert!(SEMANTICS.contains(&row), "no row begins with {row:?}");
    }
}
