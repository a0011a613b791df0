//! A view: the projection of a log that all subscriptions with equal account, bindings, filter and payload format share.
