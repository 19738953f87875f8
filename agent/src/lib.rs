//! What a node does for its own services: registrations, health checks, anti-entropy, views and the session.
