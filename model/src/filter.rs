//! `filter=` expressions: the language of go-bexpr 0.1.2, parsed once and then asked of each row.
//!
//! ```text
//! Service.Tags contains "blue" and not (Node.Meta["rack-1"] == yes or Checks.Status == critical)
//! ```
//! An expression is checked against the selectors of the rows that it is for: a wrong name is an error, not an empty answer.

mod parse;
mod rows;

pub use rows::{CatalogRow, HealthRow};

use crate::Meta;
use regex::Regex;
use std::collections::BTreeMap;

/// An expression for rows of one sort.
#[derive(Debug, Clone)]
pub struct Filter<R: Row + ?Sized> {
    root: Expression,
    rows: std::marker::PhantomData<fn(&R)>,
}

/// Why an expression was refused. The caller's fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Longer than [`crate::limits::FILTER_BYTES_MAX`].
    #[error("the filter is longer than {max} bytes")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// Deeper than [`crate::limits::FILTER_DEPTH_MAX`].
    #[error("the filter is nested deeper than {max} levels")]
    TooDeep {
        /// The limit.
        max: usize,
    },
    /// Not in the language.
    #[error("{line}:{column} ({offset}): no match found, expected: {expected}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// In bytes.
        offset: usize,
        /// What could stand there.
        expected: &'static str,
    },
    /// The rows have no such field.
    #[error("Selector {selector:?} is not valid; known are: {known}")]
    UnknownSelector {
        /// As it was written.
        selector: String,
        /// All that there are.
        known: String,
    },
    /// The field cannot be asked so.
    #[error("Invalid match operator {operator:?} for selector {selector:?}")]
    WrongOperator {
        /// As it was written.
        selector: String,
        /// As it was written.
        operator: &'static str,
    },
    /// A field of numbers or flags is compared with something else.
    #[error("Failed to coerce value {value:?} for selector {selector:?}: it must be {wanted}")]
    WrongValue {
        /// As it was written.
        selector: String,
        /// As it was written.
        value: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// The regular expression is wrong, or too large.
    #[error("Failed to compile regular expression {regex:?}: {problem}")]
    Regex {
        /// As it was written.
        regex: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A row that can be asked for its fields.
pub trait Row {
    /// All fields that there are. In a path, [`ANY_KEY`] stands for a key of a map.
    fn fields() -> Vec<Field>;

    /// What the field says in this row. `path` is one of [`Row::fields`]; `key` is the key of the map, if the path has one.
    fn value<'a>(&'a self, path: &str, key: &str) -> Value<'a>;
}

/// A field of a sort of rows: its path and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// `Service.Meta.<any>`
    pub path: String,
    /// What it holds.
    pub holds: Holds,
}

/// Stands for a key of a map in a path.
pub const ANY_KEY: &str = "<any>";

/// What a field holds, and so what may be asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// True or false.
    Flag,
    /// Several texts.
    Texts,
    /// Keys and texts.
    Map,
    /// Things of which only their number can be asked.
    Things,
}

/// What a field says in one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A whole number.
    Number(i64),
    /// True or false.
    Flag(bool),
    /// Several texts.
    Texts(&'a [String]),
    /// Keys and texts.
    Map(&'a BTreeMap<String, String>),
    /// This many things.
    Things(usize),
    /// The field of each of several things: the question is answered with yes if it is for any of them.
    Each(Vec<Value<'a>>),
    /// The map has no such key.
    Missing,
}

#[derive(Debug, Clone)]
enum Expression {
    Any(Vec<Expression>),
    All(Vec<Expression>),
    Not(Box<Expression>),
    Match(Match),
}

/// A question to one field.
#[derive(Debug, Clone)]
struct Match {
    path: String,
    key: String,
    test: Test,
    /// `!=`, `not in`, `is not empty`…: the contrary of the test is asked.
    negated: bool,
}

#[derive(Debug, Clone)]
enum Test {
    Empty,
    EqualsText(String),
    EqualsNumber(i64),
    EqualsFlag(bool),
    /// A text has it within, a list has it as an element, a map has it as a key.
    Contains(String),
    Matches(Regex),
}

impl<R: Row + ?Sized> Filter<R> {
    /// Parses an expression and checks it against the fields of its rows.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let root = parse::parse(text, &R::fields())?;
        Ok(Filter { root, rows: std::marker::PhantomData })
    }

    /// Whether a row is wanted.
    pub fn matches(&self, row: &R) -> bool {
        self.root.holds_for(row)
    }
}

impl Expression {
    fn holds_for<R: Row + ?Sized>(&self, row: &R) -> bool {
        match self {
            Expression::Any(terms) => terms.iter().any(|term| term.holds_for(row)),
            Expression::All(terms) => terms.iter().all(|term| term.holds_for(row)),
            Expression::Not(term) => !term.holds_for(row),
            Expression::Match(question) => question.answer(&row.value(&question.path, &question.key)),
        }
    }
}

impl Match {
    fn answer(&self, value: &Value<'_>) -> bool {
        match value {
            Value::Each(values) => values.iter().any(|value| self.answer(value)),
            Value::Missing => matches!(self.test, Test::Empty) != self.negated,
            value => self.test.holds(value) != self.negated,
        }
    }
}

impl Test {
    fn holds(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Test::Empty, Value::Text(text)) => text.is_empty(),
            (Test::Empty, Value::Texts(texts)) => texts.is_empty(),
            (Test::Empty, Value::Map(map)) => map.is_empty(),
            (Test::Empty, Value::Things(count)) => *count == 0,
            (Test::EqualsText(wanted), Value::Text(text)) => text == wanted,
            (Test::EqualsNumber(wanted), Value::Number(number)) => number == wanted,
            (Test::EqualsFlag(wanted), Value::Flag(flag)) => flag == wanted,
            (Test::Contains(part), Value::Text(text)) => text.contains(part.as_str()),
            (Test::Contains(element), Value::Texts(texts)) => texts.contains(element),
            (Test::Contains(key), Value::Map(map)) => map.contains_key(key),
            (Test::Matches(regex), Value::Text(text)) => regex.is_match(text),
            (Test::Matches(regex), Value::Texts(texts)) => texts.iter().any(|text| regex.is_match(text)),
            // A field does not hold what its kind says: no such question passes the parser.
            (_, _) => false,
        }
    }
}

/// What a map says about a key.
fn of_map<'a>(map: &'a Meta, key: &str) -> Value<'a> {
    map.get(key).map_or(Value::Missing, |text| Value::Text(text))
}

#[cfg(test)]
mod tests;
