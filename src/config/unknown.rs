//! Names that are not settings: which are mistakes, and what was meant.

use strsim::osa_distance;

use super::keys::ALL;

/// The setting that a variable is a misspelling of, if it is one.
///
/// The prefixes are not ours alone: the images of the brokers themselves read `KAFKA_*` and
/// `RABBITMQ_*`, without a fixed list, and Kubernetes makes variables from the names of services.
/// So only what comes close to a setting is taken for a mistake; the rest belongs to somebody else.
pub(crate) fn misspelled_variable(name: &str) -> Option<&'static str> {
    if is_service_link(name) {
        return None;
    }
    // `BROKER` alone is too short a word to be sure.
    nearest(name, ALL.iter().map(|key| key.variable).filter(|known| known.contains('_')))
}

/// The key that is most like an unknown one of a file.
pub(crate) fn nearest_in_file(name: &str) -> Option<&'static str> {
    nearest(name, ALL.iter().map(|key| key.file).filter(|file| !file.is_empty()))
}

fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let (distance, nearest) = known.map(|key| (osa_distance(name, key), key)).min()?;
    let most = match nearest.len() {
        ..12 => 1,
        12..20 => 2,
        // A third letter for long names, so that `KAFKA_SESSION_TIMEOUT_MS` is seen.
        20.. => 3,
    };
    (distance <= most).then_some(nearest)
}

/// Whether Kubernetes makes a variable of this form for a service: `X_SERVICE_HOST`,
/// `X_SERVICE_PORT[_NAME]`, `X_PORT`, `X_PORT_9092_TCP[_ADDR|_PORT|_PROTO]`.
fn is_service_link(name: &str) -> bool {
    let port = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| port(rest))
}

/// Variables of other libraries in which people often have what a setting of ours needs.
pub(crate) const OTHER_NAMES: &[(&str, &str)] = &[
    ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BROKERS"),
    ("KAFKA_BROKER_LIST", "KAFKA_BROKERS"),
    ("KAFKA_BROKER_URL", "KAFKA_BROKERS"),
    ("KAFKA_HOST", "KAFKA_BROKERS"),
    ("KAFKA_HOSTS", "KAFKA_BROKERS"),
    ("KAFKA_URL", "KAFKA_BROKERS"),
    ("KAFKA_USERNAME", "KAFKA_SASL_USERNAME"),
    ("KAFKA_PASSWORD", "KAFKA_SASL_PASSWORD"),
    ("AMQP_URL", "RABBITMQ_URL"),
    ("CLOUDAMQP_URL", "RABBITMQ_URL"),
    ("RABBIT_URL", "RABBITMQ_URL"),
    ("RABBITMQ_HOST", "RABBITMQ_URL"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_variable_is_seen_and_the_right_one_named() {
        for (wrong, right) in [
            ("KAFKA_BROKER", "KAFKA_BROKERS"),
            ("KAFKA_ENABLE", "KAFKA_ENABLED"),
            ("KAFKA_CLIENTID", "KAFKA_CLIENT_ID"),
            ("KAFKA_SESSION_TIMEOUT_MS", "KAFKA_SESSION_TIMEOUT"),
            ("KAFKA_HEARTBEAT_INTERVAL_MS", "KAFKA_HEARTBEAT_INTERVAL"),
            ("KAFKA_SASL_PASWORD", "KAFKA_SASL_PASSWORD"),
            ("RABBITMQ_URI", "RABBITMQ_URL"),
            ("RABBITMQ_URLS", "RABBITMQ_URL"),
            ("BROKER_ROUTE", "BROKER_ROUTES"),
            ("BROKER_PUBLISH_TIMEOUT_MS", "BROKER_PUBLISH_TIMEOUT"),
        ] {
            assert_eq!(misspelled_variable(wrong), Some(right), "{wrong}");
        }
    }

    /// Variables that the images of the brokers, their tools, Kubernetes and other libraries use.
    #[test]
    fn variables_of_others_do_not_break_the_start() {
        for foreign in [
            "KAFKA_HEAP_OPTS",
            "KAFKA_OPTS",
            "KAFKA_DEBUG",
            "KAFKA_LOG4J_OPTS",
            "KAFKA_JMX_PORT",
            "KAFKA_HOME",
            "KAFKA_VERSION",
            "KAFKA_LOG_DIRS",
            "KAFKA_NODE_ID",
            "KAFKA_BROKER_ID",
            "KAFKA_BROKER_RACK",
            "KAFKA_CLUSTER_ID",
            "KAFKA_LISTENERS",
            "KAFKA_PROCESS_ROLES",
            "KAFKA_ADVERTISED_LISTENERS",
            "KAFKA_ZOOKEEPER_CONNECT",
            "KAFKA_CREATE_TOPICS",
            "KAFKA_INTER_BROKER_LISTENER_NAME",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
            "KAFKA_CONTROLLER_QUORUM_VOTERS",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE",
            "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS",
            "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS",
            "KAFKA_GROUP_MAX_SESSION_TIMEOUT_MS",
            "KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS",
            "KAFKA_BROKER_SESSION_TIMEOUT_MS",
            "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS",
            "KAFKA_SASL_ENABLED_MECHANISMS",
            "KAFKA_SASL_MECHANISM_INTER_BROKER_PROTOCOL",
            "KAFKA_SASL_JAAS_CONFIG",
            "KAFKA_SSL_KEYSTORE_LOCATION",
            "KAFKA_SSL_KEYSTORE_PASSWORD",
            "KAFKA_SSL_TRUSTSTORE_LOCATION",
            "KAFKA_SSL_CLIENT_AUTH",
            "KAFKA_SSL_PROTOCOL",
            "KAFKA_SECURITY_INTER_BROKER_PROTOCOL",
            "KAFKA_SECURITY_PROVIDERS",
            "KAFKA_CFG_NODE_ID",
            "KAFKA_KRAFT_CLUSTER_ID",
            "KAFKA_BOOTSTRAP_SERVERS",
            "KAFKA_USERNAME",
            "KAFKA_PASSWORD",
            "KAFKA_URL",
            "KAFKA_HOST",
            "KAFKA_TOPIC",
            "KAFKA_CONSUMER_GROUP",
            "KAFKA_PORT",
            "KAFKA_PORT_9092_TCP",
            "KAFKA_PORT_9092_TCP_ADDR",
            "KAFKA_PORT_9092_TCP_PORT",
            "KAFKA_PORT_9092_TCP_PROTO",
            "KAFKA_SERVICE_HOST",
            "KAFKA_SERVICE_PORT",
            "KAFKA_SERVICE_PORT_TCP_CLIENT",
            "KAFKA_BROKERS_SERVICE_HOST",
            "KAFKA_BROKERS_PORT",
            "KAFKA_BROKERS_PORT_9092_TCP",
            "KAFKA_HEADLESS_SERVICE_HOST",
            "RABBITMQ_NODENAME",
            "RABBITMQ_NODE_PORT",
            "RABBITMQ_NODE_NAME",
            "RABBITMQ_HOME",
            "RABBITMQ_ERLANG_COOKIE",
            "RABBITMQ_DEFAULT_USER",
            "RABBITMQ_DEFAULT_PASS",
            "RABBITMQ_DEFAULT_VHOST",
            "RABBITMQ_CONFIG_FILE",
            "RABBITMQ_MNESIA_BASE",
            "RABBITMQ_LOGS",
            "RABBITMQ_DATA_DIR",
            "RABBITMQ_VERSION",
            "RABBITMQ_USE_LONGNAME",
            "RABBITMQ_HOST",
            "RABBITMQ_PORT",
            "RABBITMQ_USER",
            "RABBITMQ_PASSWORD",
            "RABBITMQ_VHOST",
            "RABBITMQ_SERVICE_HOST",
            "RABBITMQ_PORT_5672_TCP_ADDR",
            "BROKER_URL",
            "BROKER_HOST",
            "BROKER_PORT",
            "BROKER_SERVICE_HOST",
            "BROKER_ID",
            "BROKER_PORT_9092_TCP",
            "BROKERAGE",
            "BROKERS",
            "PATH",
        ] {
            assert_eq!(misspelled_variable(foreign), None, "{foreign}");
        }
    }
}
