//! From text to an expression: recursive descent over the grammar of go-bexpr 0.1.2.
//!
//! ```text
//! or      = and { _ "or" _ and }
//! and     = not { _ "and" _ not }
//! not     = "not" _ not | "(" or ")" | match
//! match   = selector ( "==" | "!=" | _ "contains" _ | _ "not" _ "contains" _ | _ ["not" _] "matches" _ ) value
//!         | selector _ "is" _ ["not" _] "empty"
//!         | value _ ["not" _] "in" _ selector
//! ```

use super::{ANY_KEY, Expression, Field, FilterError, Holds, Match, Test};
use crate::limits::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, REGEX_BYTES_MAX};
use regex::RegexBuilder;

pub(super) fn parse(text: &str, fields: &[Field]) -> Result<Expression, FilterError> {
    if text.len() > FILTER_BYTES_MAX {
        return Err(FilterError::TooLong { max: FILTER_BYTES_MAX });
    }
    let mut parser = Parser { text, at: 0, depth: 0, fields };
    parser.skip_space();
    let expression = parser.or()?;
    parser.skip_space();
    if parser.at < text.len() {
        return Err(parser.expected("\"and\", \"or\" or the end"));
    }
    Ok(expression)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    fields: &'t [Field],
}

/// What stands on one side of an operator, before it is known which side it is.
enum Operand {
    /// `A.B["c"]` as written, and its parts.
    Selector(String, Vec<String>),
    /// `"x"`, `` `x` `` or `12`.
    Value(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Contains,
    Matches,
    Empty,
}

impl<'t> Parser<'t> {
    fn or(&mut self) -> Result<Expression, FilterError> {
        let mut terms = vec![self.and()?];
        while self.infix("or") {
            terms.push(self.and()?);
        }
        Ok(one_or(terms, Expression::Any))
    }

    fn and(&mut self) -> Result<Expression, FilterError> {
        let mut terms = vec![self.not()?];
        while self.infix("and") {
            terms.push(self.not()?);
        }
        Ok(one_or(terms, Expression::All))
    }

    fn not(&mut self) -> Result<Expression, FilterError> {
        self.depth += 1;
        if self.depth > FILTER_DEPTH_MAX {
            return Err(FilterError::TooDeep { max: FILTER_DEPTH_MAX });
        }
        let expression = if self.prefix_not() {
            Expression::Not(Box::new(self.not()?))
        } else if self.take("(") {
            self.skip_space();
            let inner = self.or()?;
            self.skip_space();
            if !self.take(")") {
                return Err(self.expected("\")\", \"and\" or \"or\""));
            }
            inner
        } else {
            self.question()?
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn question(&mut self) -> Result<Expression, FilterError> {
        let left = self.operand()?;
        if let Some(negated) = self.negatable("in") {
            let right = self.operand()?;
            let Operand::Selector(written, parts) = right else {
                return Err(self.expected("a selector"));
            };
            return self.build(&written, &parts, Operator::Contains, negated, "in", text_of(left));
        }
        let Operand::Selector(written, parts) = left else {
            return Err(self.expected("\"in\" or \"not in\""));
        };
        if let Some(negated) = self.is_empty_operator() {
            return self.build(&written, &parts, Operator::Empty, negated, "is empty", String::new());
        }
        let (operator, negated, name) = self.binary_operator()?;
        let value = text_of(self.operand()?);
        self.build(&written, &parts, operator, negated, name, value)
    }

    fn binary_operator(&mut self) -> Result<(Operator, bool, &'static str), FilterError> {
        for (symbol, negated) in [("==", false), ("!=", true)] {
            let start = self.at;
            self.skip_space();
            if self.take(symbol) {
                self.skip_space();
                return Ok((Operator::Equal, negated, if negated { "!=" } else { "==" }));
            }
            self.at = start;
        }
        if let Some(negated) = self.negatable("contains") {
            return Ok((Operator::Contains, negated, "contains"));
        }
        if let Some(negated) = self.negatable("matches") {
            return Ok((Operator::Matches, negated, "matches"));
        }
        Err(self.expected(
            "an operator (==, !=, in, not in, contains, not contains, matches, not matches, is empty, is not empty)",
        ))
    }

    /// Makes the question, if the rows have the field and it can be asked so.
    fn build(
        &self,
        written: &str,
        parts: &[String],
        operator: Operator,
        negated: bool,
        name: &'static str,
        value: String,
    ) -> Result<Expression, FilterError> {
        let Some((field, key)) = self.fields.iter().find_map(|field| Some((field, key_in(field, parts)?))) else {
            let known: Vec<&str> = self.fields.iter().map(|field| field.path.as_str()).collect();
            return Err(FilterError::UnknownSelector { selector: written.into(), known: known.join(", ") });
        };
        let test = test(written, operator, name, field.holds, value)?;
        Ok(Expression::Match(Match { path: field.path.clone(), key, test, negated }))
    }

    fn operand(&mut self) -> Result<Operand, FilterError> {
        match self.rest().chars().next() {
            Some('"' | '`') => Ok(Operand::Value(self.string()?)),
            Some(c) if c.is_ascii_digit() || c == '-' => Ok(Operand::Value(self.number()?)),
            Some(c) if c.is_ascii_alphabetic() => self.selector(),
            _ => Err(self.expected("a selector, a string, a number or \"(\"")),
        }
    }

    fn selector(&mut self) -> Result<Operand, FilterError> {
        let start = self.at;
        let mut parts = vec![self.identifier().to_string()];
        loop {
            let before = self.at;
            if self.take("[") {
                self.skip_space();
                if !self.rest().starts_with(['"', '`']) {
                    return Err(self.expected("a string"));
                }
                parts.push(self.string()?);
                self.skip_space();
                if !self.take("]") {
                    return Err(self.expected("\"]\""));
                }
            } else if self.take(".") && !self.identifier_is_next() {
                self.at = before;
                break;
            } else if self.at > before {
                parts.push(self.identifier().to_string());
            } else {
                break;
            }
        }
        Ok(Operand::Selector(self.text[start..self.at].to_string(), parts))
    }

    fn identifier_is_next(&self) -> bool {
        self.rest().starts_with(|c: char| c.is_ascii_alphanumeric())
    }

    fn identifier(&mut self) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '/')).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn number(&mut self) -> Result<String, FilterError> {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '-' || c == '.')).unwrap_or(rest.len());
        let number = &rest[..end];
        let ends_well = rest[end..].chars().next().is_none_or(|c| c.is_whitespace() || c == ')');
        if number.parse::<f64>().is_err() || !ends_well {
            return Err(self.expected("a number"));
        }
        self.at += end;
        Ok(number.to_string())
    }

    /// `"…"` with Go's escapes for quotes, backslashes and white space, or `` `…` `` as it stands.
    fn string(&mut self) -> Result<String, FilterError> {
        let raw = self.rest().starts_with('`');
        let quote = if raw { '`' } else { '"' };
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((offset, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += offset + 1;
                    return Ok(text);
                }
                '\\' if !raw => match chars.next().and_then(|(_, escaped)| unescape(escaped)) {
                    Some(c) => text.push(c),
                    None => {
                        self.at += offset;
                        return Err(self.expected("an escape: \\\" \\\\ \\n \\r \\t"));
                    }
                },
                c => text.push(c),
            }
        }
        Err(self.expected("a closing quote"))
    }

    /// ` word ` or ` not word `: whether it is negated. Takes nothing if it is neither.
    fn negatable(&mut self, word: &str) -> Option<bool> {
        let start = self.at;
        let negated = self.infix("not");
        if negated {
            // The space after `not` is the one before the word.
            self.at -= 1;
        }
        if self.infix(word) {
            return Some(negated);
        }
        self.at = start;
        None
    }

    fn is_empty_operator(&mut self) -> Option<bool> {
        let start = self.at;
        if self.infix("is") {
            let negated = self.prefix_not();
            if self.take("empty") && !self.word_goes_on() {
                return Some(negated);
            }
        }
        self.at = start;
        None
    }

    /// Takes `not` and the space after it.
    fn prefix_not(&mut self) -> bool {
        let start = self.at;
        if self.take("not") && self.skip_space() {
            return true;
        }
        self.at = start;
        false
    }

    /// Takes a word with space (or a parenthesis) on both sides, and the space.
    fn infix(&mut self, word: &str) -> bool {
        let start = self.at;
        let closes = self.text[..start].ends_with([')', '"', '`', ']']);
        if (self.skip_space() || closes)
            && self.take(word)
            && (self.skip_space() || self.rest().starts_with(['(', '"', '`']))
        {
            return true;
        }
        self.at = start;
        false
    }

    fn word_goes_on(&self) -> bool {
        self.rest().starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Skips white space; says whether there was any.
    fn skip_space(&mut self) -> bool {
        let start = self.at;
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.at > start
    }

    fn expected(&self, expected: &'static str) -> FilterError {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        FilterError::Syntax { line, column, offset: self.at, expected }
    }
}

fn one_or(mut terms: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    match terms.len() {
        1 => terms.remove(0),
        _ => join(terms),
    }
}

/// A bare word on the side of the value is a text: `Node == web`.
fn text_of(operand: Operand) -> String {
    match operand {
        Operand::Selector(written, _) => written,
        Operand::Value(text) => text,
    }
}

/// If these are the parts of the field's path: the key of the map within it, or nothing as text.
fn key_in(field: &Field, parts: &[String]) -> Option<String> {
    let mut key = String::new();
    let mut wanted = field.path.split('.');
    for part in parts {
        match wanted.next()? {
            ANY_KEY => key.clone_from(part),
            name if name == part => {}
            _ => return None,
        }
    }
    wanted.next().is_none().then_some(key)
}

fn unescape(escaped: char) -> Option<char> {
    match escaped {
        '"' | '\\' => Some(escaped),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        _ => None,
    }
}

/// What to ask of a field, if it can be asked.
fn test(
    selector: &str,
    operator: Operator,
    name: &'static str,
    holds: Holds,
    value: String,
) -> Result<Test, FilterError> {
    let wrong_value = |value: String, wanted| FilterError::WrongValue { selector: selector.into(), value, wanted };
    match (operator, holds) {
        (Operator::Empty, Holds::Text | Holds::Texts | Holds::Map | Holds::Things) => Ok(Test::Empty),
        (Operator::Equal, Holds::Text) => Ok(Test::EqualsText(value)),
        (Operator::Equal, Holds::Number) => {
            value.parse().map(Test::EqualsNumber).map_err(|_| wrong_value(value, "a whole number"))
        }
        (Operator::Equal, Holds::Flag) => match &*value {
            "true" | "TRUE" | "True" | "t" | "T" | "1" => Ok(Test::EqualsFlag(true)),
            "false" | "FALSE" | "False" | "f" | "F" | "0" => Ok(Test::EqualsFlag(false)),
            _ => Err(wrong_value(value, "true or false")),
        },
        (Operator::Contains, Holds::Text | Holds::Texts | Holds::Map) => Ok(Test::Contains(value)),
        (Operator::Matches, Holds::Text | Holds::Texts) => {
            match RegexBuilder::new(&value).size_limit(REGEX_BYTES_MAX).build() {
                Ok(regex) => Ok(Test::Matches(regex)),
                Err(problem) => Err(FilterError::Regex { regex: value, problem: problem.to_string() }),
            }
        }
        (Operator::Empty, Holds::Number | Holds::Flag)
        | (Operator::Equal, Holds::Texts | Holds::Map | Holds::Things)
        | (Operator::Contains, Holds::Number | Holds::Flag | Holds::Things)
        | (Operator::Matches, Holds::Number | Holds::Flag | Holds::Map | Holds::Things) => {
            Err(FilterError::WrongOperator { selector: selector.into(), operator: name })
        }
    }
}
