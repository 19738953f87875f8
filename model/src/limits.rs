//! Every limit on what a user may store, in one place.

/// Largest value of a KV entry, in bytes (Consul: `kv_max_value_size`).
pub const KV_VALUE_BYTES_MAX: usize = 512 * 1024;
/// Longest KV key, in bytes.
pub const KV_KEY_BYTES_MAX: usize = 2048;
/// Largest body of any other request, in bytes.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most metadata pairs of a node or service (Consul: 64).
pub const META_PAIRS_MAX: usize = 64;
/// Longest metadata key and value, in bytes (Consul: 128 and 512).
pub const META_KEY_BYTES_MAX: usize = 128;
/// See [`META_KEY_BYTES_MAX`].
pub const META_VALUE_BYTES_MAX: usize = 512;
/// Longest output that a check keeps, in bytes (Consul: 4 KiB).
pub const CHECK_OUTPUT_BYTES_MAX: usize = 4096;
/// Most operations in one transaction (Consul: 128).
pub const TXN_OPS_MAX: usize = 128;
/// Largest body of a transaction, in bytes (Consul: `txn_max_req_len`).
pub const TXN_BYTES_MAX: usize = 512 * 1024;
/// Most tags of one service instance.
pub const TAGS_MAX: usize = 256;
/// Longest `filter=` expression, in bytes.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting of parentheses and `not` in a `filter=` expression.
pub const FILTER_DEPTH_MAX: usize = 64;
/// Largest compiled regular expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 1024 * 1024;
