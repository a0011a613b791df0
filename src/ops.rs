//! What an operator meets besides gRPC: how the process ends, later the admin listener and reload.
