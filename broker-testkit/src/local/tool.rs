//! The command-line tools that come with a broker.

use tokio::process::Command;

use super::LocalError;

/// Runs a tool to its end; what it printed is the result, or part of the error.
pub(crate) async fn run_tool(name: &str, mut command: Command) -> Result<String, LocalError> {
    let output =
        command.kill_on_drop(true).output().await.map_err(LocalError::io(format!("run {name}")))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(LocalError::Tool {
        command: name.to_owned(),
        status: output.status.to_string(),
        output: printed + &String::from_utf8_lossy(&output.stderr),
    })
}
