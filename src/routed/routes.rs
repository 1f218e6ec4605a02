//! What topics are routed by: their names.

use broker_api::{Error, ErrorKind, Name, Result};

/// What each topic is routed to, by patterns. See [`Routed::route`](super::Routed::route).
#[derive(Debug, Clone)]
pub(crate) struct Routes<T> {
    /// The longest pattern first.
    routes: Vec<(Pattern, T)>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { routes: Vec::new() }
    }
}

impl<T> Routes<T> {
    /// Adds a route.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] for a pattern that no topic can have, and for one that is
    /// there already.
    pub(crate) fn add(&mut self, pattern: &str, to: T) -> Result<()> {
        let parsed = Pattern::parse(pattern)?;
        if self.routes.iter().any(|(known, _)| *known == parsed) {
            let text = format!("the route {pattern:?} is there twice");
            return Err(Error::new(ErrorKind::Configuration, "configure", text));
        }
        self.routes.push((parsed, to));
        self.routes.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.weight()));
        Ok(())
    }

    /// What the topic is routed to, if it is.
    pub(crate) fn find(&self, topic: Name) -> Option<&T> {
        let mut routes = self.routes.iter();
        routes.find(|(pattern, _)| pattern.fits(topic.as_str())).map(|(_, to)| to)
    }
}

/// Which names a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// This topic, and those made from its name.
    Topic(Name),
    /// All that begin so.
    Prefix(Box<str>),
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let wrong = |error: Error| {
            let text = format!("the route {text:?} fits no topic: {}", error.message());
            Error::new(ErrorKind::Configuration, "configure", text)
        };
        match text.strip_suffix('*') {
            None => Name::intern(text).map(Self::Topic).map_err(wrong),
            Some("") => Ok(Self::Prefix("".into())),
            // The beginning of a name follows the rules of a name, once something follows it.
            Some(prefix) => match Name::intern(&format!("{prefix}x")) {
                Ok(_) => Ok(Self::Prefix(prefix.into())),
                Err(error) => Err(wrong(error)),
            },
        }
    }

    /// How much of a name it decides; a whole name decides more than the same as a beginning.
    fn weight(&self) -> usize {
        match self {
            Self::Topic(name) => 2 * name.as_str().len() + 1,
            Self::Prefix(prefix) => 2 * prefix.len(),
        }
    }

    fn fits(&self, topic: &str) -> bool {
        match self {
            Self::Topic(name) => topic
                .strip_prefix(name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
            Self::Prefix(prefix) => topic.starts_with(&**prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pattern_that_fits_decides() {
        let mut routes = Routes::default();
        for pattern in ["*", "credits*", "credits", "credits.group*", "video.created"] {
            routes.add(pattern, pattern).unwrap();
        }
        for (topic, expected) in [
            ("feature_usage_topic", "*"),
            ("credits_process_end_topic", "credits*"),
            ("credits", "credits"),
            ("credits.other.dlt", "credits"),
            ("credits.group.dlt", "credits.group*"),
            ("video.created", "video.created"),
            ("video.deleted", "*"),
        ] {
            assert_eq!(routes.find(Name::new(topic)), Some(&expected), "{topic}");
        }
        assert!(Routes::<()>::default().find(Name::new("t")).is_none());
        let error = routes.add("credits", "again").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }

    fn fits(pattern: &str, topic: &str) -> bool {
        Pattern::parse(pattern).unwrap().fits(topic)
    }

    #[test]
    fn the_name_of_a_topic_stands_for_the_names_made_from_it() {
        assert!(fits("credits", "credits"));
        assert!(fits("credits", "credits.group.dlt"));
        assert!(!fits("credits", "credits_process_end_topic"));
        assert!(fits("credits_*", "credits_process_end_topic"));
        assert!(fits("*", "anything"));
    }

    #[test]
    fn a_pattern_that_fits_no_topic_is_refused() {
        for bad in ["", "a b", "*a", "a/*", "ä"] {
            let error = Pattern::parse(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Configuration, "{bad}");
        }
    }
}
