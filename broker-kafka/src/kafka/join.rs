//! Becoming a member of a group.

use std::sync::Arc;

use broker_api::{Error, ErrorKind, Result, Source, Subscribe, Transactions as Grouping};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};

use super::{Kafka, blocking};
use crate::config::GroupProtocol;
use crate::elsewhere::Elsewhere;
use crate::error;
use crate::group;
use crate::member::Member;
use crate::membership::Membership;
use crate::poll::Task;
use crate::properties::creation_error;
use crate::rebalance::Rebalance;
use crate::transactions::Transactions;
use crate::transactor::Transactor;

impl Kafka {
    /// Joins a group, settling by transactions or not.
    pub(super) async fn join(
        &self,
        subscribe: Subscribe,
        transactions: Option<Grouping>,
    ) -> Result<Box<dyn Source>> {
        const OPERATION: &str = "subscribe";
        let topics = self.topics(OPERATION)?;
        if subscribe.topics.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, OPERATION, "no topic is named"));
        }
        let mut counts = Vec::new();
        for topic in &subscribe.topics {
            counts.push((*topic, topics.partition_count(*topic, OPERATION).await?));
        }
        let timeout = self.config.revoke_timeout.min(self.config.max_poll_interval() / 2);
        let member = Arc::new(Member::new(&subscribe, transactions, timeout, self.link.clone()));
        let client = match transactions {
            None => self.config.member(subscribe.group.name),
            Some(_) => self.config.transactional_member(subscribe.group.name),
        };
        let transactor = self.config.transactor(subscribe.group.name);
        let link = self.link.clone();
        let context = Rebalance { member: member.clone() };
        let (topics, runtime) = (Arc::downgrade(&topics), self.runtime.clone());
        let kip_848 = self.config.group_protocol == GroupProtocol::Consumer;
        let membership = Membership { member: member.clone() };
        let joining = member.clone();
        let joined = blocking(OPERATION, move || {
            let consumer = StreamConsumer::from_config_and_context(&client, context);
            let consumer = consumer.map_err(|error| creation_error(error, OPERATION))?;
            let consumer = Elsewhere::new(consumer);
            for (topic, partitions) in counts {
                group::declare(&*consumer, topic, partitions, &subscribe.group, OPERATION)?;
            }
            let transactions = match transactions {
                None => None,
                Some(grouping) => {
                    let transactor = Transactor::new(&transactor, link)?;
                    Some(Transactions::new(joining.clone(), grouping, transactor))
                }
            };
            let names: Vec<_> = subscribe.topics.iter().map(|topic| topic.as_str()).collect();
            consumer.subscribe(&names).map_err(|error| error::error(error, OPERATION))?;
            // Begun here, so that it leaves in order also where nobody waits for it any more: one
            // of KIP-848 that does not keeps its partitions until its session is over.
            runtime.spawn(Task { consumer, member: joining, topics, kip_848 }.run(transactions));
            Ok(())
        });
        joined.await?;
        // Closed meanwhile: nobody would close this one.
        self.members.add(&member)?;
        Ok(Box::new(membership))
    }
}
