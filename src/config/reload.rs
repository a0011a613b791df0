//! How changes of the configuration are noticed.

use std::time::Duration;

use super::{
    form::{Flag, span},
    settings::settings,
};

settings! {
    /// How changes of the configuration are noticed while hawking runs.
    pub struct Reload {
        /// Whether the configuration file and the files that secrets are in are watched. SIGHUP is heeded in any case.
        watch: bool = true, as Flag;
        /// How often they are looked at. A change is taken up once the files have stayed the same for so long.
        watch_interval: Duration = Duration::from_secs(2), as span(Duration::from_millis(10), Duration::from_hours(1));
    }
}
