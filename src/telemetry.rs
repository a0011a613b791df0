//! What hawking says about itself: logs and metrics.

pub mod logging;
pub mod metrics;
pub(crate) mod throttle;
