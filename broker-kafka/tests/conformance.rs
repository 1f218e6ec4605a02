//! The conformance suite with the classic group protocol.

use broker_testkit::conformance;

mod provider;

fn main() -> std::process::ExitCode {
    let provider = provider::kafka(|config| config);
    conformance::run("kafka", move || provider())
}
