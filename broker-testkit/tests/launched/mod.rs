//! A test of brokers that are launched here.

use std::error::Error;

use broker_testkit::local::LocalError;
use libtest_mimic::{Completion, Failed, Trial};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Ignored, and not failed, where the broker is not installed and need not be.
pub(crate) fn trial<F>(name: String, test: F) -> Trial
where
    F: AsyncFnOnce() -> Outcome + Send + 'static,
{
    Trial::ignorable_test(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(test()) {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref() {
                Some(missing @ LocalError::NotInstalled { .. })
                    if std::env::var_os("BROKER_TESTKIT_REQUIRE").is_none() =>
                {
                    Ok(Completion::ignored_with(missing))
                }
                _ => Err(Failed::from(error.to_string())),
            },
        }
    })
}
