//! What is left of a run: `docs/performance.json`, and drawn from it the charts and the page.

pub mod chart;
pub mod page;
pub mod results;
