//! `filter=`: checked once before the query runs, applied to its rows.

use model::filter::{Filter as Parsed, Row};

use super::Refusal;

/// A filter that was checked against the rows that it is for; none takes all rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter(Option<Box<str>>);

impl Filter {
    /// Checks an expression. (Consul 1.16 answers a wrong one with 500 and the parser's text.)
    pub(crate) fn check<R: Row>(text: Option<&str>) -> Result<Self, Refusal> {
        if let Some(text) = text {
            Parsed::<R>::parse(text).map_err(|error| {
                api::Error::internal(format!("Failed to create boolean expression evaluator: {error}"))
            })?;
        }
        Ok(Filter(text.map(Into::into)))
    }

    /// Whether it takes all rows.
    pub(crate) fn is_any(&self) -> bool {
        self.0.is_none()
    }

    /// Says of each row whether it is wanted. Parsed anew for each run of a query, because rows are borrowed from it.
    pub(crate) fn wants<R: Row>(&self) -> impl Fn(&R) -> bool + use<R> {
        let parsed = self.0.as_deref().and_then(|text| Parsed::<R>::parse(text).ok());
        move |row| parsed.as_ref().is_none_or(|filter| filter.matches(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Node;

    #[test]
    fn rows_are_filtered_and_nonsense_is_refused() {
        let node = Node { name: "n1".into(), ..Node::default() };
        let wants = |text: Option<&str>| {
            Filter::check::<Node>(text)
                .map(|filter| filter.wants::<Node>()(&node))
                .map_err(|refusal| refusal.0.status.as_u16())
        };
        assert_eq!(wants(None), Ok(true));
        assert_eq!(wants(Some("Node == n1")), Ok(true));
        assert_eq!(wants(Some("Node == n2")), Ok(false));
        assert_eq!(wants(Some("Nope == n2")), Err(500));
        assert_eq!(wants(Some("Node ==")), Err(500));
    }
}
