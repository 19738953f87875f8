//! Move bytes as told: listeners, L4 and L7 paths, balancing, QUIC tunnels, gateways.
