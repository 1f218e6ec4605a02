//! The program as it is called.

use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_broker-bench");
    Command::new(program).args(arguments).output().expect("the program runs")
}

#[test]
fn a_row_that_does_not_exist_is_told_with_those_that_do() {
    let output = bench(&["--broker", "memory", "--row", "nonsense"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("nonsense") && said.contains("publish, pipelined"), "{said}");
}

#[test]
fn a_quick_run_in_memory_prints_every_row() {
    let output = bench(&["--broker", "memory", "--quick", "--json"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for row in ["publish, pipelined", "publish, one by one", "consume", "end to end"] {
        assert!(said.lines().any(|line| line.contains(row)), "{row}: {said}");
    }
}
