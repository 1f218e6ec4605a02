//! A broker in a container.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker_api::BoxError;
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};
use tokio::runtime::{Builder, Runtime};

/// How long a broker in a container may take to be ready, its image being there.
const START_LIMIT: Duration = Duration::from_secs(120);

/// What to run.
pub(super) struct Recipe {
    image: String,
    ready: &'static str,
    /// Inside, and what clients are told outside.
    port: u16,
    address: fn(u16) -> String,
    variables: fn(u16) -> Vec<(&'static str, String)>,
}

impl Recipe {
    pub(super) fn kafka() -> Self {
        Self {
            image: image("BROKER_TESTKIT_KAFKA_IMAGE", "apache/kafka:4-local"),
            ready: "Kafka Server started",
            port: 9092,
            address: |port| format!("127.0.0.1:{port}"),
            // A client goes where the broker says that it is, so the broker has to know.
            variables: |port| {
                vec![
                    ("KAFKA_ADVERTISED_LISTENERS", format!("PLAINTEXT://127.0.0.1:{port}")),
                    ("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0".to_owned()),
                ]
            },
        }
    }

    pub(super) fn rabbitmq() -> Self {
        Self {
            image: image("BROKER_TESTKIT_RABBITMQ_IMAGE", "rabbitmq:4-management"),
            ready: "Server startup complete",
            port: 5672,
            address: |port| format!("amqp://guest:guest@127.0.0.1:{port}/%2f"),
            variables: |_| Vec::new(),
        }
    }
}

fn image(variable: &str, default: &str) -> String {
    std::env::var(variable).ok().filter(|image| !image.is_empty()).unwrap_or(default.to_owned())
}

/// A running container. It has a runtime of its own, because each case of a suite has its own and
/// the connection to Docker belongs to the one it was made in.
pub(super) struct Container {
    address: String,
    // Both are there until it is dropped.
    container: Option<Arc<ContainerAsync<GenericImage>>>,
    runtime: Option<Runtime>,
}

impl Container {
    /// Starts it, or says in words why not.
    pub(super) async fn start(recipe: Option<Recipe>) -> Result<Self, String> {
        let recipe = recipe.ok_or("Docker has no image of this version")?;
        if !daemon_may_be_there() {
            return Err("Docker is not here: no DOCKER_HOST and no socket".to_owned());
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime for Docker: {error}"))?;
        let port = free_port().map_err(|error| format!("no free port for Docker: {error}"))?;
        let (name, tag) = recipe.image.rsplit_once(':').unwrap_or((&recipe.image, "latest"));
        let image: ContainerRequest<GenericImage> = GenericImage::new(name, tag)
            .with_wait_for(WaitFor::message_on_stdout(recipe.ready))
            .with_mapped_port(port, recipe.port.tcp())
            .with_startup_timeout(START_LIMIT);
        let variables = (recipe.variables)(port).into_iter();
        let image = variables.fold(image, |image, (name, value)| image.with_env_var(name, value));
        let why = match runtime.spawn(image.start()).await {
            Ok(Ok(container)) => {
                let address = (recipe.address)(port);
                let container = Some(Arc::new(container));
                return Ok(Self { address, container, runtime: Some(runtime) });
            }
            Ok(Err(error)) => format!("Docker did not start {}: {error}", recipe.image),
            Err(error) => format!("starting a container panicked: {error}"),
        };
        runtime.shutdown_background();
        Err(why)
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Ends its processes at once.
    pub(super) async fn kill(&self) -> Result<(), BoxError> {
        let (runtime, container) = self.parts()?;
        Ok(runtime.spawn(async move { container.stop_with_timeout(Some(0)).await }).await??)
    }

    /// Starts it again; what is in it needs some seconds then.
    pub(super) async fn restart(&self) -> Result<(), BoxError> {
        let (runtime, container) = self.parts()?;
        Ok(runtime.spawn(async move { container.start().await }).await??)
    }

    fn parts(&self) -> Result<(&Runtime, Arc<ContainerAsync<GenericImage>>), BoxError> {
        match (&self.runtime, &self.container) {
            (Some(runtime), Some(container)) => Ok((runtime, container.clone())),
            _ => Err("the container is gone".into()),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let (Some(runtime), Some(container)) = (self.runtime.take(), self.container.take()) else {
            return;
        };
        // In a thread, because a runtime cannot be waited for in another one, where this may be.
        let removal = std::thread::spawn(move || {
            if let Some(container) = Arc::into_inner(container)
                && let Err(error) = runtime.block_on(container.rm())
            {
                eprintln!("a container of the tests could not be removed: {error}");
            }
        });
        // It panics only if Docker's client does; there is nothing left to do then.
        let _ = removal.join();
    }
}

/// Whether it is worth asking Docker: without a socket its client waits long.
fn daemon_may_be_there() -> bool {
    let home = |variable: &str, rest: &str| {
        std::env::var_os(variable).is_some_and(|home| PathBuf::from(home).join(rest).exists())
    };
    std::env::var_os("DOCKER_HOST").is_some_and(|host| !host.is_empty())
        || PathBuf::from("/var/run/docker.sock").exists()
        || home("XDG_RUNTIME_DIR", ".docker/run/docker.sock")
        || home("HOME", ".docker/run/docker.sock")
        || home("HOME", ".docker/desktop/docker.sock")
}

/// A port that was free a moment ago; Docker has to be told one, and the broker too.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
