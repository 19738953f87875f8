//! User JSON to values: keys without regard to case and underscores, `null` as "not given", as Consul's clients expect.
//!
//! The text is parsed once into a tree of bounded depth; a struct is read from the tree by comparing keys with its field
//! names. Keys of maps (`Meta`, `Config`) are left as they are.

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_json::{Map, Value};
use std::borrow::Cow;

#[cfg(test)]
mod tests;

/// The body is not what it should be. The caller's fault; nothing changed; a retry does not help.
///
/// Consul answers it with 400 and this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Request decode failed: {reason}")]
pub struct BadJson {
    /// What is wrong, without the prefix, for those endpoints that have another one.
    pub reason: String,
}

impl de::Error for BadJson {
    fn custom<T: std::fmt::Display>(reason: T) -> Self {
        BadJson { reason: reason.to_string() }
    }
}

impl From<BadJson> for crate::Error {
    fn from(error: BadJson) -> Self {
        crate::Error::bad_request(error.to_string())
    }
}

/// A value from the JSON of a request's body. Nesting is limited to 128 levels; the caller limits the size.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadJson> {
    from_value(parse(bytes)?)
}

/// As [`from_slice`], but takes numbers and booleans for strings and strings for them, as Consul does in config entries.
pub fn from_slice_weak<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadJson> {
    T::deserialize(Reader { value: parse(bytes)?, weak: true })
}

/// A value from JSON that has been parsed already.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, BadJson> {
    T::deserialize(Reader { value, weak: false })
}

/// As [`from_value`], with the tolerance of [`from_slice_weak`].
pub fn from_value_weak<T: DeserializeOwned>(value: Value) -> Result<T, BadJson> {
    T::deserialize(Reader { value, weak: true })
}

/// The tree of a request's body.
pub fn parse(bytes: &[u8]) -> Result<Value, BadJson> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(BadJson { reason: "EOF".to_string() });
    }
    serde_json::from_slice(bytes).map_err(|e| BadJson { reason: e.to_string() })
}

/// The value of a key of an object, without regard to case and underscores; an exact match wins.
pub fn find<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).or_else(|| object.iter().find(|(k, _)| same_key(k, key)).map(|(_, v)| v))
}

/// Compact JSON of a reply, or indented by four blanks for `?pretty`.
pub fn to_bytes<T: serde::Serialize + ?Sized>(value: &T, pretty: bool) -> bytes::Bytes {
    let mut out = Vec::with_capacity(256);
    let result = if pretty {
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
    } else {
        serde_json::to_writer(&mut out, value)
    };
    // Invariant: replies have string keys only, and a Vec takes all bytes.
    result.expect("replies can be written");
    if pretty {
        out.push(b'\n');
    }
    out.into()
}

/// Reads one value of the tree.
struct Reader {
    value: Value,
    weak: bool,
}

impl Reader {
    fn wrong<T>(self, visitor: &dyn de::Expected) -> Result<T, BadJson> {
        Err(de::Error::invalid_type(unexpected(&self.value), visitor))
    }

    /// `"5"` for 5 and the like, where Consul is lenient.
    fn number_of_text(&self) -> Option<Value> {
        match &self.value {
            Value::String(text) if self.weak => serde_json::from_str(text).ok().filter(Value::is_number),
            _ => None,
        }
    }

    fn text_of_scalar(&self) -> Option<String> {
        match &self.value {
            Value::Number(_) | Value::Bool(_) if self.weak => Some(self.value.to_string()),
            _ => None,
        }
    }
}

/// Forwards the integer types: a number, or `null` for 0.
macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
            if self.value.is_null() {
                return visitor.visit_u64(0);
            }
            let value = self.number_of_text().unwrap_or(self.value);
            value.$method(visitor).map_err(de::Error::custom)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Reader {
    type Error = BadJson;

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        match self.value {
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
            scalar => scalar.deserialize_any(visitor).map_err(de::Error::custom),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        match &self.value {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(yes) => visitor.visit_bool(*yes),
            Value::String(text) if self.weak && text == "true" => visitor.visit_bool(true),
            Value::String(text) if self.weak && (text == "false" || text.is_empty()) => visitor.visit_bool(false),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        if let Some(text) = self.text_of_scalar() {
            return visitor.visit_string(text);
        }
        match self.value {
            Value::Null => visitor.visit_str(""),
            Value::String(text) => visitor.visit_string(text),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        self.deserialize_string(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        self.deserialize_string(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        self.deserialize_string(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        match self.value {
            Value::Array(_) => self.deserialize_seq(visitor),
            _ => self.deserialize_string(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, BadJson> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, BadJson> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        let weak = self.weak;
        match self.value {
            Value::Null => visitor.visit_seq(Items { items: Vec::new().into_iter(), weak }),
            Value::Array(items) => visitor.visit_seq(Items { items: items.into_iter(), weak }),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, BadJson> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, BadJson> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        let weak = self.weak;
        match self.value {
            Value::Null => visitor.visit_map(Entries { entries: Vec::new().into_iter(), value: None, weak }),
            Value::Object(map) => {
                let entries: Vec<_> = map.into_iter().map(|(k, v)| (Cow::Owned(k), v)).collect();
                visitor.visit_map(Entries { entries: entries.into_iter(), value: None, weak })
            }
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, BadJson> {
        let weak = self.weak;
        match self.value {
            Value::Null => visitor.visit_map(Entries { entries: Vec::new().into_iter(), value: None, weak }),
            Value::Object(map) => {
                visitor.visit_map(Entries { entries: named(map, fields).into_iter(), value: None, weak })
            }
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, BadJson> {
        match &self.value {
            Value::Null => visitor.visit_enum("".into_deserializer()),
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Object(map) if map.len() == 1 => visitor.visit_enum(self),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BadJson> {
        visitor.visit_unit()
    }
}

/// An enum with content: `{"Variant": …}`.
impl<'de> EnumAccess<'de> for Reader {
    type Error = BadJson;
    type Variant = Reader;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Reader), BadJson> {
        let weak = self.weak;
        match self.value {
            Value::Object(map) => match map.into_iter().next() {
                Some((name, value)) => {
                    Ok((seed.deserialize(Reader { value: Value::String(name), weak })?, Reader { value, weak }))
                }
                None => Err(de::Error::custom("expected a variant")),
            },
            other => Ok((seed.deserialize(Reader { value: other, weak })?, Reader { value: Value::Null, weak })),
        }
    }
}

impl<'de> VariantAccess<'de> for Reader {
    type Error = BadJson;

    fn unit_variant(self) -> Result<(), BadJson> {
        Ok(())
    }
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, BadJson> {
        seed.deserialize(self)
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, BadJson> {
        de::Deserializer::deserialize_seq(self, visitor)
    }
    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, BadJson> {
        de::Deserializer::deserialize_struct(self, "", fields, visitor)
    }
}

struct Items {
    items: std::vec::IntoIter<Value>,
    weak: bool,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = BadJson;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, BadJson> {
        let weak = self.weak;
        self.items.next().map(|value| seed.deserialize(Reader { value, weak })).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries {
    entries: std::vec::IntoIter<(Cow<'static, str>, Value)>,
    value: Option<(Cow<'static, str>, Value)>,
    weak: bool,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = BadJson;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, BadJson> {
        let Some((key, value)) = self.entries.next() else {
            return Ok(None);
        };
        let name = seed.deserialize(key.clone().into_deserializer())?;
        self.value = Some((key, value));
        Ok(Some(name))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, BadJson> {
        let Some((key, value)) = self.value.take() else {
            return Err(de::Error::custom("a value without a key"));
        };
        seed.deserialize(Reader { value, weak: self.weak }).map_err(|e| at(&key, e))
    }
}

/// Says where in the body the mistake is: `Check.Interval: …`.
fn at(key: &str, error: BadJson) -> BadJson {
    let joint = if error.reason.contains(": ") && !error.reason.starts_with("invalid") { "." } else { ": " };
    BadJson { reason: format!("{key}{joint}{}", error.reason) }
}

/// The entries of an object under the names of a struct's fields. `null` means "not given". Of two keys that mean the same
/// field, the one that is written as the field is wins.
fn named(map: Map<String, Value>, fields: &'static [&'static str]) -> Vec<(Cow<'static, str>, Value)> {
    let mut entries: Vec<(Cow<'static, str>, Value)> = Vec::with_capacity(map.len());
    let mut inexact: Vec<(&'static str, Value)> = Vec::new();
    for (key, value) in map {
        if value.is_null() {
            continue;
        }
        match fields.iter().find(|field| **field == key) {
            Some(field) => entries.push((Cow::Borrowed(field), value)),
            None => match fields.iter().find(|field| same_key(field, &key)) {
                Some(field) => inexact.push((field, value)),
                None => entries.push((Cow::Owned(key), value)),
            },
        }
    }
    for (field, value) in inexact {
        if !entries.iter().any(|(name, _)| name == field) {
            entries.push((Cow::Borrowed(field), value));
        }
    }
    entries
}

/// `ServiceID`, `serviceid` and `service_id` are the same key.
fn same_key(a: &str, b: &str) -> bool {
    plain(a).eq(plain(b))
}

fn plain(key: &str) -> impl Iterator<Item = u8> {
    key.bytes().filter(|c| *c != b'_').map(|c| c.to_ascii_lowercase())
}

fn unexpected(value: &Value) -> de::Unexpected<'_> {
    match value {
        Value::Null => de::Unexpected::Other("null"),
        Value::Bool(yes) => de::Unexpected::Bool(*yes),
        Value::Number(_) => de::Unexpected::Other("number"),
        Value::String(text) => de::Unexpected::Str(text),
        Value::Array(_) => de::Unexpected::Seq,
        Value::Object(_) => de::Unexpected::Map,
    }
}
