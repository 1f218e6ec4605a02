//! The cases of groups and settling with an eager assignment strategy: at each rebalance all
//! partitions are given up, and most of them come back.

use broker_testkit::conformance::{self, Outcome};

mod provider;

const SUBJECTS: [&str; 3] = ["groups", "settle", "order"];

#[test]
fn groups_are_the_same_with_an_eager_strategy() {
    let provider = provider::kafka(|config| {
        config.property("partition.assignment.strategy", "range,roundrobin")
    });
    let mut failed = Vec::new();
    for case in conformance::cases().filter(|case| SUBJECTS.contains(&case.subject())) {
        let provider = provider.clone();
        let outcome = conformance::check(&case, move || provider());
        println!("{}: {outcome:?}", case.name());
        if let Outcome::Failed(why) = outcome {
            failed.push(format!("{}: {why}", case.name()));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
