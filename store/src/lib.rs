//! What a node must not forget: keyed trees on sled whose commit survives a power cut.
