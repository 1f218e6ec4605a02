//! A broker in a container.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use broker_api::BoxError;
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::local::{Greeting, Port, Protocol, RabbitMqVersion, SMALL_KAFKA};

/// How long a broker in a container may take to be ready, its image being there.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How often readiness is looked for.
const POLL: Duration = Duration::from_millis(50);

/// Where all containers are steered: the connection to Docker belongs to the runtime it was made
/// in, and each case of a suite has its own, which ends with the case.
static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(1).thread_name("docker").enable_all().build()
});

/// What to run.
pub(super) struct Recipe {
    image: String,
    protocol: Protocol,
    /// Part of a line that it logs when all of it is up.
    ready: &'static str,
    /// Where it listens inside.
    port: u16,
    address: fn(u16) -> String,
    variables: fn(u16) -> Vec<(String, String)>,
}

impl Recipe {
    pub(super) fn kafka() -> Self {
        Self {
            image: image("BROKER_TESTKIT_KAFKA_IMAGE", "apache/kafka:4-local"),
            protocol: Protocol::Kafka,
            ready: "Kafka Server started",
            port: 9092,
            address: |port| format!("127.0.0.1:{port}"),
            variables: kafka_variables,
        }
    }

    pub(super) fn rabbitmq(version: RabbitMqVersion) -> Self {
        let image = match version {
            RabbitMqVersion::V3 => {
                image("BROKER_TESTKIT_RABBITMQ_3_IMAGE", "rabbitmq:3-management")
            }
            RabbitMqVersion::V4 => {
                image("BROKER_TESTKIT_RABBITMQ_4_IMAGE", "rabbitmq:4-management")
            }
        };
        Self {
            image,
            protocol: Protocol::Amqp,
            ready: " completed with ",
            port: 5672,
            address: |port| format!("amqp://guest:guest@127.0.0.1:{port}/%2f"),
            variables: |_| Vec::new(),
        }
    }
}

fn image(variable: &str, default: &str) -> String {
    std::env::var(variable).ok().filter(|image| !image.is_empty()).unwrap_or(default.to_owned())
}

/// All that one node needs: the official image forgets its own defaults as soon as one is given.
fn kafka_variables(port: u16) -> Vec<(String, String)> {
    // A client goes where the broker says that it is, so the broker has to know; and it has to reach itself, which it
    // does to end a transaction, where that address means nothing.
    let advertised = format!("PLAINTEXT://127.0.0.1:{port},INSIDE://localhost:9094");
    let own = [
        ("advertised.listeners", advertised.as_str()),
        ("node.id", "1"),
        ("process.roles", "broker,controller"),
        ("listeners", "PLAINTEXT://:9092,INSIDE://:9094,CONTROLLER://:9093"),
        ("inter.broker.listener.name", "INSIDE"),
        ("controller.listener.names", "CONTROLLER"),
        ("controller.quorum.voters", "1@localhost:9093"),
        (
            "listener.security.protocol.map",
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT",
        ),
    ];
    let variable = |key: &str| format!("KAFKA_{}", key.replace('.', "_").to_uppercase());
    own.iter().chain(SMALL_KAFKA).map(|(key, value)| (variable(key), (*value).to_owned())).collect()
}

/// A running container.
pub(super) struct Container {
    address: String,
    greeting: Greeting,
    _port: Port,
    /// There until it is dropped.
    container: Option<Arc<ContainerAsync<GenericImage>>>,
}

impl Container {
    /// Starts it, or says in words why not.
    pub(super) async fn start(recipe: Recipe) -> Result<Self, String> {
        if !daemon_may_be_there() {
            return Err("Docker is not here: no DOCKER_HOST and no socket".to_owned());
        }
        let port = Port::any().map_err(|error| format!("no port for Docker: {error}"))?;
        let number = port.number();
        let (name, tag) = recipe.image.rsplit_once(':').unwrap_or((&recipe.image, "latest"));
        let image: ContainerRequest<GenericImage> = GenericImage::new(name, tag)
            .with_wait_for(WaitFor::message_on_stdout(recipe.ready))
            .with_mapped_port(number, recipe.port.tcp())
            .with_startup_timeout(START_LIMIT);
        let variables = (recipe.variables)(number).into_iter();
        let image = variables.fold(image, |image, (name, value)| image.with_env_var(name, value));
        let starting = runtime().map_err(|error| error.to_string())?.spawn(image.start());
        let container = match starting.await {
            Ok(Ok(container)) => Some(Arc::new(container)),
            Ok(Err(error)) => {
                return Err(format!("Docker did not start {}: {error}", recipe.image));
            }
            Err(error) => return Err(format!("starting a container panicked: {error}")),
        };
        let greeting = Greeting { protocol: recipe.protocol, port: number };
        let container =
            Self { address: (recipe.address)(number), greeting, _port: port, container };
        container.ready().await.map_err(|error| error.to_string())?;
        Ok(container)
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Ends its processes at once.
    pub(super) async fn kill(&self) -> Result<(), BoxError> {
        let container = self.container()?;
        Ok(runtime()?.spawn(async move { container.stop_with_timeout(Some(0)).await }).await??)
    }

    /// Starts it again, and returns when it answers.
    pub(super) async fn restart(&self) -> Result<(), BoxError> {
        let container = self.container()?;
        runtime()?.spawn(async move { container.start().await }).await??;
        self.ready().await
    }

    fn container(&self) -> Result<Arc<ContainerAsync<GenericImage>>, BoxError> {
        self.container.clone().ok_or_else(|| "the container is gone".into())
    }

    async fn ready(&self) -> Result<(), BoxError> {
        let deadline = Instant::now() + START_LIMIT;
        while !self.greeting.is_answered().await {
            if Instant::now() > deadline {
                return Err(format!("no answer at {} within {START_LIMIT:?}", self.address).into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let (Ok(runtime), Some(container)) = (runtime(), self.container.take()) else { return };
        // In a thread, because a runtime cannot be waited for in another one, where this may be.
        let removal = std::thread::spawn(move || {
            runtime.block_on(async {
                if let Some(container) = Arc::into_inner(container)
                    && let Err(error) = container.rm().await
                {
                    eprintln!("a container of the tests could not be removed: {error}");
                }
            });
        });
        // It panics only if Docker's client does; there is nothing left to do then.
        let _ = removal.join();
    }
}

fn runtime() -> Result<&'static Runtime, BoxError> {
    RUNTIME.as_ref().map_err(|error| format!("no runtime for Docker: {error}").into())
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
