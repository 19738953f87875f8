//! The catalog from outside: commands in, answers and topics out.

mod apply;
mod codec;
mod compile;
mod language;
mod properties;
mod random;
mod refusals;
mod snapshots;
