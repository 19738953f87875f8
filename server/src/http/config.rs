//! `/v1/config`: central configuration. (Consul: `config_endpoint.go`.)

use api::Error;
use api::reply::Indexed;
use axum::http::StatusCode;
use catalog::query::config_entry as query;
use catalog::{Command, Response as Answered};
use model::config_entry::{ConfigEntry, ProxyDefaults, ServiceDefaults};
use model::limits::BODY_BYTES_MAX;
use serde_json::Value;

use super::catalog::indexed;
use super::read::{Read, TEXT, json, list};
use super::write::{Write, bool_json};
use super::{Refusal, Reply};
use crate::watch::Answer;

const KINDS: [&str; 2] = ["service-defaults", "proxy-defaults"];

pub(super) async fn all(read: Read) -> Reply {
    let (kind, filter) = (read.path.after("/v1/config/"), read.filter::<ConfigEntry>()?);
    check_kind(&kind)?;
    read.answer(move |view, pretty| {
        let wanted = filter.wants::<ConfigEntry>();
        list(query::entries(view, &kind).into_iter().filter(|row| wanted(&row.value)).map(indexed), pretty)
    })
    .await
}

pub(super) async fn one(read: Read) -> Reply {
    let (kind, name) = kind_and_name(&read.path.after("/v1/config/"))?;
    read.answer(move |view, pretty| match query::entry(view, &kind, &name) {
        Some(row) => json::<Indexed<&ConfigEntry>>(&indexed(row), pretty),
        None => missing(&kind, &name),
    })
    .await
}

fn missing(kind: &str, name: &str) -> Answer {
    let text = format!("Config entry not found for {kind:?} / {name:?}");
    Answer { status: StatusCode::NOT_FOUND, content_type: TEXT, body: text.into() }
}

pub(super) async fn apply(mut write: Write) -> Reply {
    let cas = cas_of(&write)?;
    let body = write.take_body(BODY_BYTES_MAX).await?;
    let entry = parse_entry(&body)?;
    write.done(&Command::SetConfigEntry { entry: Box::new(entry), cas }).await
}

pub(super) async fn delete(write: Write) -> Reply {
    let (kind, name) = kind_and_name(&write.path.after("/v1/config/"))?;
    let cas = cas_of(&write)?;
    let answered = write.propose(&Command::DeleteConfigEntry { kind, name, cas }).await?;
    if cas.is_some() {
        return Ok(bool_json(answered != Answered::CasFailed, write.pretty()));
    }
    Ok(super::read::plain_json(&serde_json::Map::new(), write.pretty()))
}

fn kind_and_name(rest: &str) -> Result<(String, String), Refusal> {
    let (kind, name) = rest.split_once('/').unwrap_or((rest, ""));
    check_kind(kind)?;
    Ok((kind.to_string(), name.to_string()))
}

fn check_kind(kind: &str) -> Result<(), Refusal> {
    match KINDS.contains(&kind) {
        true => Ok(()),
        false => Err(Error::bad_request(format!("invalid config entry kind: {kind}")).into()),
    }
}

fn cas_of(write: &Write) -> Result<Option<u64>, Refusal> {
    match write.query.get("cas") {
        Some("") | None => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Error::bad_request(format!("strconv.ParseUint: parsing {text:?}: invalid syntax")).into()),
    }
}

/// An entry, its keys read without regard to case. `Kind` decides what it is.
pub(crate) fn parse_entry(body: &[u8]) -> Result<ConfigEntry, Error> {
    let bad = |reason: String| Error::bad_request(format!("Request decoding failed: {reason}"));
    let value = api::json::parse(body).map_err(|error| bad(error.reason))?;
    let Value::Object(object) = &value else { return Err(bad("an object is needed".into())) };
    let kind = api::json::find(object, "Kind").and_then(Value::as_str).unwrap_or_default().to_string();
    if kind.is_empty() {
        return Err(bad("Payload does not contain a kind/Kind key at the top level".into()));
    }
    let entry = match kind.as_str() {
        "service-defaults" => api::json::from_value_weak::<ServiceDefaults>(value).map(ConfigEntry::ServiceDefaults),
        "proxy-defaults" => api::json::from_value_weak::<ProxyDefaults>(value).map(ConfigEntry::ProxyDefaults),
        _ => return Err(bad(format!("invalid config entry kind: {kind}"))),
    };
    entry.map_err(|error| bad(error.reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_by_kind() {
        let entry =
            parse_entry(br#"{"kind": "service-defaults", "name": "web", "protocol": "http"}"#).map_err(|e| e.text);
        let Ok(ConfigEntry::ServiceDefaults(defaults)) = entry else { panic!("{entry:?}") };
        assert_eq!((defaults.name.as_str(), defaults.protocol.is_http()), ("web", true));
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (body, part) in [
            ("[]", "an object"),
            ("{", "EOF"),
            ("{}", "does not contain a kind/Kind key"),
            (r#"{"Kind": "nope"}"#, "invalid config entry kind: nope"),
            (r#"{"Kind": "service-defaults", "Protocol": "smtp"}"#, "smtp"),
        ] {
            let text = parse_entry(body.as_bytes()).map_err(|e| e.text).expect_err(body);
            assert!(text.starts_with("Request decoding failed: ") && text.contains(part), "{text}");
        }
    }
}
