//! The replicated truth: commands in, views out, deterministic to the last bit.
