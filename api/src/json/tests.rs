//! Tests of reading user JSON.
