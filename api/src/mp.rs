//! MessagePack with field names: the `*_mp` fields of `tribune.proto` (docs/adr/0005-one-serde-shape.md).

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of a peer that are not the noun they should be. The peer's fault; nothing changed; a retry does not help.
#[derive(Debug, thiserror::Error)]
#[error("a peer sent a malformed {what}: {source}; check that both run compatible versions")]
pub struct BadMessage {
    /// The noun that was expected.
    pub what: &'static str,
    /// Why it is not one.
    pub source: rmp_serde::decode::Error,
}

/// A noun as MessagePack with field names.
pub fn encode<T: Serialize + ?Sized>(noun: &T) -> Bytes {
    // Invariant: nouns are plain structs, whose lengths are known and whose writer is memory.
    rmp_serde::to_vec_named(noun).expect("nouns can be encoded").into()
}

/// A noun from MessagePack. Fields that are absent get their default; unknown ones are ignored.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadMessage> {
    rmp_serde::from_slice(bytes).map_err(|source| BadMessage { what: short_name::<T>(), source })
}

fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    name.rsplit("::").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Node, ServiceInstance};

    #[test]
    fn nouns_come_back_equal() {
        let node = Node { name: "n1".into(), address: "10.0.0.1".into(), ..Node::default() };
        assert_eq!(decode::<Node>(&encode(&node)).expect("decodes"), node);
        let mut service =
            ServiceInstance { id: "web-1".into(), service: "web".into(), port: 80, ..ServiceInstance::default() };
        service.proxy.config.insert("a".into(), serde_json::json!({"b": [1, 2.5, null, "x"]}));
        assert_eq!(decode::<ServiceInstance>(&encode(&service)).expect("decodes"), service);
    }

    #[test]
    fn rubbish_names_the_noun() {
        let error = decode::<Node>(&[0xc1]).expect_err("0xc1 is never used");
        assert!(error.to_string().starts_with("a peer sent a malformed Node: "), "{error}");
    }
}
