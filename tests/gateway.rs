//! End to end over gRPC, through real sockets: what a consumer sees.

mod gateway {
    mod harness;

    mod connections;
    mod live;
    mod requests;
    mod services;
    mod shutdown;
}
