//! The way out: the accept loop, the body of `Subscribe`, the unary calls.
