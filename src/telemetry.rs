//! What hawking says about itself: logs and metrics.
