//! What hawking says about itself: logs and metrics.

pub mod logging;
pub(crate) mod throttle;
