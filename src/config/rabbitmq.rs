//! The settings of RabbitMQ.

use std::sync::Arc;

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::{Backend, Result};

use super::keys;
use super::values::{Values, configuration};

pub(super) fn read(values: &Values) -> Result<AmqpConfig> {
    let url = values.text(keys::RABBITMQ_URL)?.ok_or_else(|| {
        let hint = values.hint(keys::RABBITMQ_URL);
        let text = format!(
            "RabbitMQ is chosen, but its address is missing; set \
             RABBITMQ_URL=amqp://user:password@host:5672{hint}"
        );
        values.wrong(keys::RABBITMQ_URL, text)
    })?;
    let mut config = AmqpConfig::new(url);
    super::read(values.millis(keys::RABBITMQ_CONNECT_TIMEOUT)?, &mut config.connect_timeout);
    super::read(values.millis(keys::RABBITMQ_HEARTBEAT)?, &mut config.heartbeat);
    super::read(values.text(keys::RABBITMQ_CONNECTION_NAME)?, &mut config.connection_name);
    Ok(config)
}

pub(super) async fn connect(config: Option<&AmqpConfig>) -> Result<Arc<dyn Backend>> {
    let config = config.ok_or_else(|| {
        let text = "RabbitMQ is chosen, but `Config::rabbitmq` does not say how to reach it";
        configuration(text.into())
    })?;
    let amqp = Amqp::connect(config.clone()).await;
    Ok(Arc::new(amqp.map_err(|error| super::with_remedy(error, keys::RABBITMQ_URL))?))
}
