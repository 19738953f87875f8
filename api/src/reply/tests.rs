//! Tests of the shapes of replies.
