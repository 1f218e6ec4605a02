//! The conformance suite with the classic group protocol.

mod provider;

fn main() -> std::process::ExitCode {
    provider::run("kafka", |config| config)
}
