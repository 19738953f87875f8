//! `/v1/connect/intentions*`. (Consul: `intentions_endpoint.go`.)

use std::collections::BTreeMap;
use std::time::SystemTime;

use api::Error;
use api::query::Query;
use api::reply::Allowed;
use catalog::Command;
use catalog::query::intention as query;
use model::Intention;
use model::intention::Action;
use serde_json::json as value;

use super::catalog::indexed;
use super::read::{Read, json, list, not_found, plain_json};
use super::write::Write;
use super::{Refusal, Reply};
use crate::time::rfc3339;

const MISSING: &str = "Intention not found";

pub(super) async fn all(read: Read) -> Reply {
    let filter = read.filter::<Intention>()?;
    read.answer(move |view, pretty| {
        let wanted = filter.wants::<Intention>();
        list(query::list(view).into_iter().filter(|row| wanted(&row.value)).map(indexed), pretty)
    })
    .await
}

pub(super) async fn exact(read: Read) -> Reply {
    let (source, destination) = ends(&read.query)?;
    read.answer(move |view, pretty| match query::exact(view, &source, &destination) {
        Some(row) => json(&indexed(row), pretty),
        None => not_found(MISSING),
    })
    .await
}

pub(super) async fn by_id(read: Read) -> Reply {
    let id = read.path.after("/v1/connect/intentions/");
    read.answer(move |view, pretty| match query::by_id(view, &id) {
        Some(row) => json(&indexed(row), pretty),
        None => not_found(MISSING),
    })
    .await
}

pub(super) async fn check(read: Read) -> Reply {
    let (source, destination) = ends(&read.query)?;
    let kind = read.query.non_empty("source-type").unwrap_or("consul");
    if kind != "consul" {
        return Err(Error::bad_request(format!("invalid source type {kind:?}: only \"consul\" is supported")).into());
    }
    let default = read.core.config.default_intention_policy;
    read.answer(move |view, pretty| {
        let rules = query::matching_destination(view, &destination);
        let decision =
            model::intention::decide(&source, &destination, rules.into_iter().map(|row| &row.value), default);
        json(&Allowed { allowed: decision.action == Action::Allow }, pretty)
    })
    .await
}

pub(super) async fn matching(read: Read) -> Reply {
    let by = read.query.non_empty("by").ok_or_else(|| required("by"))?;
    let by_source = match by {
        "source" => true,
        "destination" => false,
        _ => return Err(Error::bad_request("'by' parameter must be one of 'source' or 'destination'").into()),
    };
    let names: Vec<String> = read.query.all("name").map(str::to_string).collect();
    if names.is_empty() {
        return Err(required("name").into());
    }
    read.answer(move |view, pretty| {
        let find = if by_source { query::matching_source } else { query::matching_destination };
        let found: BTreeMap<&str, Vec<_>> = names
            .iter()
            .map(|name| (name.as_str(), find(view, bare(name)).into_iter().map(indexed).collect()))
            .collect();
        json(&found, pretty)
    })
    .await
}

pub(super) async fn put_exact(mut write: Write) -> Reply {
    let (source, destination) = ends(&write.query)?;
    let mut intention: Intention = write.json().await?;
    if !intention.source_name.is_empty() && bare(&intention.source_name) != source {
        return Err(Error::bad_request("SourceName must match the source query parameter").into());
    }
    (intention.source_name, intention.destination_name) = (source, destination);
    let command = set(complete(intention)?);
    write.done(&command).await
}

pub(super) async fn delete_exact(write: Write) -> Reply {
    let (source, destination) = ends(&write.query)?;
    write.done(&Command::DeleteIntention { source, destination }).await
}

/// Deprecated in Consul; some clients still use it.
pub(super) async fn create(mut write: Write) -> Reply {
    let intention: Intention = write.json().await?;
    let intention = complete(intention)?;
    let (source, destination) = (intention.source_name.clone(), intention.destination_name.clone());
    let existing = write.core.watch.read(|view| query::exact(view, &source, &destination).is_some()).0;
    if existing {
        return Err(Error::internal(format!("duplicate intention found: {source} => {destination}")).into());
    }
    let id = intention.id.clone();
    write.propose(&set(intention)).await?;
    Ok(plain_json(&value!({ "ID": id }), write.pretty()))
}

pub(super) async fn put_by_id(mut write: Write) -> Reply {
    let id = write.path.after("/v1/connect/intentions/");
    let mut intention: Intention = write.json().await?;
    let known = write.core.watch.read(|view| query::by_id(view, &id).map(|row| row.value.clone())).0;
    let known = known.ok_or_else(|| Error::not_found(MISSING))?;
    let is_moved = |given: &str, known: &str| !given.is_empty() && bare(given) != known;
    if is_moved(&intention.source_name, &known.source_name)
        || is_moved(&intention.destination_name, &known.destination_name)
    {
        return Err(Error::bad_request(
            "source and destination of an intention cannot be changed: delete it and make another",
        )
        .into());
    }
    (intention.source_name, intention.destination_name, intention.id) =
        (known.source_name, known.destination_name, known.id);
    let intention = complete(intention)?;
    let id = intention.id.clone();
    write.propose(&set(intention)).await?;
    Ok(plain_json(&value!({ "ID": id }), write.pretty()))
}

pub(super) async fn delete_by_id(write: Write) -> Reply {
    let id = write.path.after("/v1/connect/intentions/");
    let known = write
        .core
        .watch
        .read(|view| query::by_id(view, &id).map(|row| (row.source_name.clone(), row.destination_name.clone())))
        .0;
    let (source, destination) = known.ok_or_else(|| Error::not_found(MISSING))?;
    write.done(&Command::DeleteIntention { source, destination }).await
}

fn set(intention: Intention) -> Command {
    Command::SetIntention(Box::new(intention))
}

/// Fills in what the client may leave out: namespaces, id, times.
fn complete(mut intention: Intention) -> Result<Intention, Refusal> {
    (intention.source_name, intention.destination_name) =
        (bare(&intention.source_name).into(), bare(&intention.destination_name).into());
    intention.normalize();
    intention.validate().map_err(|error| Error::bad_request(error.to_string()))?;
    if intention.id.is_empty() {
        intention.id = uuid::Uuid::new_v4().to_string();
    }
    let now = rfc3339(SystemTime::now());
    (intention.created_at, intention.updated_at) = (now.clone(), now);
    Ok(intention)
}

fn ends(query: &Query) -> Result<(String, String), Refusal> {
    let end = |key: &'static str| query.non_empty(key).map(|name| bare(name).to_string()).ok_or_else(|| required(key));
    Ok((end("source")?, end("destination")?))
}

fn required(key: &str) -> Error {
    Error::bad_request(format!("required query parameter '{key}' not set"))
}

/// A name without the only namespace that there is.
fn bare(name: &str) -> &str {
    name.strip_prefix("default/").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_filled_in() {
        let intention =
            Intention { source_name: "default/web".into(), destination_name: "db".into(), ..Intention::default() };
        let made = complete(intention).map_err(|e| e.0.text).expect("good");
        assert_eq!(
            (made.source_name.as_str(), made.source_ns.as_str(), made.source_type.as_str()),
            ("web", "default", "consul")
        );
        assert_eq!((made.precedence, made.id.len()), (9, 36));
        assert!(made.created_at.ends_with('Z'));
    }

    #[test]
    fn both_ends_are_needed() {
        let text = |query: &str| ends(&Query::parse(query)).map_err(|e| e.0.text);
        assert_eq!(text("source=web&destination=default/db"), Ok(("web".into(), "db".into())));
        assert_eq!(text("source=web"), Err("required query parameter 'destination' not set".into()));
        assert_eq!(text("destination=web"), Err("required query parameter 'source' not set".into()));
    }
}
