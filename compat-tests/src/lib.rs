//! Starts real brokers, shard servers and clients, and checks what they say to each other.
