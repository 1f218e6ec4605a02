//! RabbitMQ: users, virtual hosts, permissions, TLS, and certificates instead of passwords.

use anybroker::{ErrorKind, GroupSpec, Message, Subscribe, TopicSpec};
use broker_testkit::local::{Certificates, RabbitMq, RabbitMqConfig, RabbitMqVersion};

use crate::user::{GROUP, TOPIC, User, not_allowed};
use crate::{Outcome, SECRET};

/// The stream that all clients share.
const REGISTRY: &str = r"^anybroker\.registry$";

/// Lets users in by password and, with TLS, by a certificate instead.
async fn start(version: RabbitMqVersion, certificates: &Certificates) -> Outcome<RabbitMq> {
    let config = RabbitMqConfig::version(version)
        .tls(certificates)
        .plugin("rabbitmq_auth_mechanism_ssl")
        .setting("ssl_cert_login_from", "common_name")
        .setting("auth_mechanisms.1", "PLAIN")
        .setting("auth_mechanisms.2", "EXTERNAL");
    let rabbitmq = RabbitMq::start(config).await?;
    for user in ["app", "client", "reader"] {
        rabbitmq.rabbitmqctl(&["add_user", user, SECRET]).await?;
    }
    rabbitmq.rabbitmqctl(&["add_vhost", "shop"]).await?;
    let all = ["set_permissions", "-p", "shop"];
    for user in ["app", "client"] {
        rabbitmq.rabbitmqctl(&[&all[..], &[user, ".*", ".*", ".*"]].concat()).await?;
    }
    Ok(rabbitmq)
}

/// In the virtual host `shop`.
fn user(rabbitmq: &RabbitMq, name: &str, password: &str) -> Outcome<User> {
    let url = rabbitmq.amqp_url();
    let url = url.replace("guest:guest", &format!("{name}:{password}")).replace("%2f", "shop");
    Ok(User::new(&[("RABBITMQ_URL", &url)]))
}

fn with_tls(rabbitmq: &RabbitMq, certificates: &Certificates, who: &str) -> Outcome<User> {
    let url = rabbitmq.amqps_url().ok_or("no TLS")?;
    let url = url.replace("guest:guest@", who).replace("%2f", "shop");
    let authority = certificates.authority();
    Ok(User::new(&[("RABBITMQ_URL", &url)])
        .and("RABBITMQ_SSL_CA_LOCATION", authority.to_string_lossy()))
}

fn shown(mut user: User, certificates: &Certificates) -> User {
    let identity = certificates.client();
    for (name, value) in &mut user.0 {
        if name == "RABBITMQ_URL" {
            value.push_str("?auth_mechanism=external");
        }
    }
    user.and("RABBITMQ_SSL_CERTIFICATE_LOCATION", identity.certificate.to_string_lossy())
        .and("RABBITMQ_SSL_KEY_LOCATION", identity.key.to_string_lossy())
}

pub(crate) async fn logins(version: RabbitMqVersion) -> Outcome {
    let (certificates, others) = (Certificates::generate().await?, Certificates::generate().await?);
    let rabbitmq = start(version, &certificates).await?;
    user(&rabbitmq, "app", SECRET)?.works("a password").await?;
    let wrong = user(&rabbitmq, "app", &format!("{SECRET}-not"))?;
    wrong.is_refused("a wrong password", ErrorKind::Unauthenticated, "RABBITMQ_URL").await?;
    let elsewhere = user(&rabbitmq, "reader", SECRET)?;
    elsewhere.is_refused("no access", ErrorKind::Configuration, "virtual host").await?;

    let login = format!("app:{SECRET}@");
    with_tls(&rabbitmq, &certificates, &login)?.works("a password with TLS").await?;
    shown(with_tls(&rabbitmq, &certificates, "")?, &certificates).works("a certificate").await?;
    let stranger = shown(with_tls(&rabbitmq, &certificates, "")?, &others);
    let wanted = "RABBITMQ_SSL_CERTIFICATE_LOCATION";
    stranger.is_refused("a stranger's certificate", ErrorKind::Unavailable, wanted).await?;
    // Certificates are checked, and nothing turns that off.
    let untrusting = with_tls(&rabbitmq, &others, &login)?;
    untrusting.is_refused("another authority", ErrorKind::Unavailable, "RABBITMQ_SSL").await
}

pub(crate) async fn permissions() -> Outcome {
    let rabbitmq = start(RabbitMqVersion::V4, &Certificates::generate().await?).await?;
    let owner = user(&rabbitmq, "app", SECRET)?.connect().await?;
    owner.create_topic(&TopicSpec::new(TOPIC)).await?;
    owner.declare_group(TOPIC, &GroupSpec::new(GROUP)).await?;
    // What every client needs, and to see everything.
    let reads = ["set_permissions", "-p", "shop", "reader", REGISTRY, REGISTRY, ".*"];
    rabbitmq.rabbitmqctl(&reads).await?;
    let reader = user(&rabbitmq, "reader", SECRET)?.connect().await?;
    not_allowed("publishing", reader.publish_message(TOPIC, Message::new("one")).await)?;
    not_allowed("creating a topic", reader.create_topic(&TopicSpec::new(GROUP)).await)?;
    not_allowed("deleting a topic", reader.delete_topic(TOPIC).await)?;
    reader.close().await?;
    // And the other way round.
    rabbitmq.rabbitmqctl(&["add_user", "writer", SECRET]).await?;
    let writes = ["set_permissions", "-p", "shop", "writer", REGISTRY, ".*", REGISTRY];
    rabbitmq.rabbitmqctl(&writes).await?;
    let writer = user(&rabbitmq, "writer", SECRET)?.connect().await?;
    writer.publish_message(TOPIC, Message::new("one")).await?;
    let subscribe = Subscribe::new(TOPIC, GroupSpec::new(GROUP));
    not_allowed("consuming", async { writer.subscribe(subscribe).await?.next().await }.await)?;
    writer.close().await?;
    owner.close().await?;
    Ok(())
}
