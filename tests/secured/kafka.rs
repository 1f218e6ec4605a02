//! Kafka: SASL with and without TLS, certificates, and access control lists.

use anybroker::{ErrorKind, GroupSpec, Message, Subscribe, TopicSpec};
use broker_testkit::local::{Certificates, Kafka, KafkaConfig};

use crate::user::{GROUP, TOPIC, User, not_allowed};
use crate::{Outcome, SECRET, ensure};

const ACLS: &str = "org.apache.kafka.tools.AclCommand";

/// Without TLS, with TLS, and with certificates instead of names; each by every mechanism.
async fn start(certificates: &Certificates) -> Outcome<Kafka> {
    let plain = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_app=\"{SECRET}\" user_reader=\"{SECRET}\";"
    );
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let bearer = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";";
    let mut config = KafkaConfig::default()
        .tls(certificates)
        .property("ssl.client.auth", "none")
        .property("listener.name.mutual.ssl.client.auth", "required")
        .listener("LOGIN", "SASL_PLAINTEXT")
        .listener("SAFE", "SASL_SSL")
        .listener("MUTUAL", "SSL")
        .property("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER")
        .property("ssl.principal.mapping.rules", "RULE:^CN=([^,]+).*$/$1/,DEFAULT")
        .property(
            "authorizer.class.name",
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        )
        // Whoever uses the plain listener, as the controller does and the tools.
        .property("super.users", "User:ANONYMOUS;User:app;User:client");
    for listener in ["login", "safe"] {
        for (mechanism, module) in [
            ("plain", plain.as_str()),
            ("scram-sha-256", scram),
            ("scram-sha-512", scram),
            ("oauthbearer", bearer),
        ] {
            let name = format!("listener.name.{listener}.{mechanism}.sasl.jaas.config");
            config = config.property(name, module);
        }
    }
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let user = format!("{mechanism}=[name=app,password={SECRET}]");
        config = config.format_argument("--add-scram").format_argument(user);
    }
    Ok(Kafka::start(config).await?)
}

fn user(kafka: &Kafka, listener: &str) -> Outcome<User> {
    let address = kafka.address(listener).ok_or("no such listener")?;
    let user = User::new(&[("KAFKA_ENABLED", "true"), ("KAFKA_BROKERS", address)]);
    // Everything that librdkafka can say.
    Ok(user.and("KAFKA_PROPERTIES_DEBUG", "all"))
}

fn login(kafka: &Kafka, listener: &str, mechanism: &str, name: &str) -> Outcome<User> {
    Ok(user(kafka, listener)?
        .and("KAFKA_SASL_MECHANISM", mechanism)
        .and("KAFKA_SASL_USERNAME", name)
        .and("KAFKA_SASL_PASSWORD", SECRET))
}

pub(crate) async fn logins() -> Outcome {
    let (certificates, others) = (Certificates::generate().await?, Certificates::generate().await?);
    let kafka = start(&certificates).await?;
    let trusted = |user: User, by: &Certificates| {
        user.and("KAFKA_SSL", "true").and("KAFKA_SSL_CA_LOCATION", by.authority().to_string_lossy())
    };
    let shown = |user: User, identity: broker_testkit::local::Identity| {
        user.and("KAFKA_SSL_CERTIFICATE_LOCATION", identity.certificate.to_string_lossy())
            .and("KAFKA_SSL_KEY_LOCATION", identity.key.to_string_lossy())
    };

    for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
        login(&kafka, "LOGIN", mechanism, "app")?.works(mechanism).await?;
        let safe = trusted(login(&kafka, "SAFE", mechanism, "app")?, &certificates);
        safe.works(&format!("{mechanism} with TLS")).await?;
        let wrong = login(&kafka, "LOGIN", mechanism, "nobody")?;
        wrong.is_refused(mechanism, ErrorKind::Unauthenticated, "KAFKA_SASL_PASSWORD").await?;
    }
    user(&kafka, "LOGIN")?
        .and("KAFKA_SASL_MECHANISM", "oauthbearer")
        .and("KAFKA_PROPERTIES_ENABLE_SASL_OAUTHBEARER_UNSECURE_JWT", "true")
        .and("KAFKA_PROPERTIES_SASL_OAUTHBEARER_CONFIG", "principal=app")
        .works("oauthbearer")
        .await?;

    trusted(user(&kafka, "SSL")?, &certificates).connect().await?.close().await?;
    let mutual = || user(&kafka, "MUTUAL");
    shown(trusted(mutual()?, &certificates), certificates.client()).works("certificates").await?;
    let unavailable = ErrorKind::Unavailable;
    let said = "certificate";
    let unknown = trusted(mutual()?, &certificates);
    unknown.is_refused("without a certificate", unavailable, said).await?;
    let stranger = shown(trusted(mutual()?, &certificates), others.client());
    stranger.is_refused("with a stranger's certificate", unavailable, said).await?;
    // Certificates are checked unless one says otherwise.
    let untrusting = trusted(user(&kafka, "SSL")?, &others);
    untrusting.is_refused("another authority", unavailable, said).await
}

pub(crate) async fn permissions() -> Outcome {
    let kafka = start(&Certificates::generate().await?).await?;
    let owner = login(&kafka, "LOGIN", "plain", "app")?.connect().await?;
    owner.create_topic(&TopicSpec::new(TOPIC)).await?;
    owner.publish_message(TOPIC, Message::new("one")).await?;
    let reader = login(&kafka, "LOGIN", "plain", "reader")?.connect().await?;
    let subscribe = || Subscribe::new(TOPIC, GroupSpec::new(GROUP));
    not_allowed("subscribing", async { reader.subscribe(subscribe()).await?.next().await }.await)?;
    let publish = || reader.publish_message(TOPIC, Message::new("two")).into_future();
    not_allowed("publishing", publish().await)?;
    not_allowed("creating a topic", reader.create_topic(&TopicSpec::new(GROUP)).await)?;

    let grant = ["--add", "--allow-principal", "User:reader", "--operation", "Read"];
    let (topic, group) = (["--topic", TOPIC.as_str()], ["--group", GROUP.as_str()]);
    kafka.tool(ACLS, &[&grant[..], &topic[..]].concat()).await?;
    kafka.tool(ACLS, &[&grant[..], &group[..]].concat()).await?;
    let mut subscription = reader.subscribe(subscribe()).await?;
    let delivery = subscription.next().await?.ok_or("the end")?;
    ensure(delivery.received().message.payload() == "one", || "another message".into())?;
    delivery.ack();
    subscription.close().await?;
    not_allowed("publishing by a reader", publish().await)?;
    not_allowed("deleting a topic", reader.delete_topic(TOPIC).await)?;
    reader.close().await?;
    owner.publish_message(TOPIC, Message::new("three")).await?;
    owner.close().await?;
    Ok(())
}
