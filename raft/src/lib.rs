//! Agreement on an ordered log of opaque commands: openraft, its log on disk, tonic transport, snapshots.
