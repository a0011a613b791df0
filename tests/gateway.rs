//! End to end over gRPC, through real sockets: what a consumer sees.

// What goes wrong in a test's own part should end the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod gateway {
    mod harness;
    #[path = "../common/numbered.rs"]
    mod numbered;
    mod tls;
    mod whole;

    mod admin;
    mod admin_http;
    mod budget;
    mod classic;
    mod connections;
    mod counted;
    mod crowd;
    mod descendants;
    mod drain;
    mod encrypted;
    mod endings;
    mod live;
    mod many;
    mod metrics;
    mod outage;
    mod plain_ids;
    mod pressure;
    mod recorded;
    mod reload;
    mod requests;
    mod resume;
    mod services;
    mod stalled;
}
