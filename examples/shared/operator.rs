//! Who looks at dead letters, mends what was wrong, and puts them back.

use std::collections::BTreeMap;
use std::time::Duration;

use anybroker::dead_letter::{DeadLetter, Filter, Pace};
use anybroker::{Broker, ErrorKind, Name, Result};

use super::{Outcome, trouble};

/// How often the operator looks.
const LOOK: Duration = Duration::from_millis(100);

/// Prints how many dead letters there are, for which reasons.
pub(crate) async fn show(broker: &Broker, topics: &[Name]) -> Result<()> {
    for topic in topics {
        let letters = list(broker, *topic, &Filter::default()).await?;
        println!("{} dead letters in {topic}", letters.len());
        let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
        for letter in &letters {
            let [kind, error] = [&letter.kind, &letter.error].map(|t| t.as_deref().unwrap_or("?"));
            let reason = format!("{kind}: {error} (attempts: {})", letter.attempts);
            *reasons.entry(reason).or_default() += 1;
        }
        for (reason, count) in reasons {
            println!("  {count} x {reason}");
        }
    }
    Ok(())
}

/// Puts all dead letters back to the groups that failed.
pub(crate) async fn redrive(broker: &Broker, topics: &[Name]) -> Result<()> {
    for topic in topics {
        let letters = broker.dead_letters(*topic);
        let redriven = match letters.redrive(&Filter::default(), Pace::Unlimited).await {
            Err(error) if error.kind() == ErrorKind::UnknownTopic => Vec::new(),
            redriven => redriven?,
        };
        println!("put {} dead letters of {topic} back", redriven.len());
    }
    Ok(())
}

/// While `consuming` goes on: waits for so many dead letters, says why they are dead, mends that,
/// and puts them back.
pub(crate) async fn mend_during(
    consuming: impl Future<Output = Outcome>,
    broker: &Broker,
    topics: &[Name],
    expected: usize,
) -> Outcome {
    let mend = async {
        loop {
            let mut found = 0;
            for topic in topics {
                found += list(broker, *topic, &Filter::default()).await?.len();
            }
            if found >= expected {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        show(broker, topics).await?;
        trouble::mend();
        redrive(broker, topics).await
    };
    tokio::pin!(consuming);
    tokio::select! {
        // By a signal.
        ended = &mut consuming => return ended,
        mended = mend => mended?,
    }
    consuming.await
}

/// Waits for a dead letter with this key.
pub(crate) async fn dead(broker: &Broker, topic: Name, key: &str) -> Result<()> {
    let filter = Filter { key: Some(key.into()), ..Filter::default() };
    while list(broker, topic, &filter).await?.is_empty() {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The dead letters; none where there is no consumer yet who made the topic.
async fn list(broker: &Broker, topic: Name, filter: &Filter) -> Result<Vec<DeadLetter>> {
    match broker.dead_letters(topic).list(filter).await {
        Err(error) if error.kind() == ErrorKind::UnknownTopic => Ok(Vec::new()),
        letters => letters,
    }
}
