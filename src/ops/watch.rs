//! Notices that the configuration has changed: its file, or one of those that secrets are in.
//!
//! The files are read and compared every now and then, rather than watched by inotify. What changes them is of many kinds:
//! an editor that renames a new file over the old one, `kubectl` by way of a symlink that is swapped two folders up, a
//! network file system on which another machine writes. A watch has to follow each of them, and is silent where it fails to;
//! to read a few small files every other second always works.
//!
//! A file may be half written, or one of two that belong together may not be there yet. So a change counts once nothing has
//! changed any more for a whole interval.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    time::Duration,
};

use tokio::task::spawn_blocking;

use crate::config::{self, Config, ConfigError, ConfigErrors, Place, Problem};

/// How often it is read again where the files that it names have changed with it.
const ROUNDS: usize = 3;

/// A digest of each file; `None` for one that cannot be read. No content is kept: there are secrets among them.
type Digests = BTreeMap<PathBuf, Option<u64>>;

/// The configuration's files, as they were when it was last loaded.
///
/// Files are read on threads of their own: a file system that hangs must hang nobody else.
pub struct Watch {
    sources: Sources,
    loaded: Digests,
    /// What they have changed to, as it was seen last.
    seen: Option<Digests>,
}

/// Where the configuration comes from.
#[derive(Clone)]
struct Sources {
    path: Option<PathBuf>,
    /// Its file, and those that it names.
    files: BTreeSet<PathBuf>,
    hasher: RandomState,
}

impl Sources {
    /// Reads the configuration, and the files as they were before that.
    fn load(&mut self) -> (Digests, Result<Config, ConfigErrors>) {
        let mut rounds = 0;
        loop {
            // Before it is read: what changes after that is a change.
            let digests = self.digests();
            let (config, files) = Config::load_with_sources(self.path.as_deref(), config::environment());
            let known = files == self.files;
            self.files = files;
            rounds += 1;
            if known || rounds == ROUNDS {
                return (digests, config);
            }
        }
    }

    fn digests(&self) -> Digests {
        let digest = |path: &PathBuf| fs::read(path).ok().map(|content| self.hasher.hash_one(content));
        self.files.iter().map(|path| (path.clone(), digest(path))).collect()
    }
}

impl Watch {
    /// Loads the configuration, from this file and the environment, and watches from then on.
    ///
    /// # Errors
    ///
    /// As [`Config::load`]; what was read is watched all the same.
    pub fn load(path: Option<PathBuf>) -> (Self, Result<Config, ConfigErrors>) {
        let files = path.clone().into_iter().collect();
        let mut sources = Sources { path, files, hasher: RandomState::new() };
        let (loaded, config) = sources.load();
        (Self { sources, loaded, seen: None }, config)
    }

    /// Loads it anew. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// As [`Config::load`]; and where reading it came to a panic, which is to end nothing that runs.
    pub async fn reload(&mut self) -> Result<Config, ConfigErrors> {
        let mut sources = self.sources.clone();
        let read = spawn_blocking(move || {
            let (loaded, config) = sources.load();
            (sources, loaded, config)
        });
        let Ok((sources, loaded, config)) = read.await else { return Err(self.panicked()) };
        *self = Self { sources, loaded, seen: None };
        config
    }

    /// Reading it came to a panic. It is not read again before it changes.
    fn panicked(&mut self) -> ConfigErrors {
        // Asked for by a signal, nothing was seen to change.
        if let Some(seen) = self.seen.take() {
            self.loaded = seen;
        }
        let path = self.sources.path.clone();
        let reason = "it came to a panic, which is a defect; the log has it".to_owned();
        let problem =
            Problem::Unreadable { path: path.clone().unwrap_or_default().display().to_string(), reason };
        let place = path.map_or(Place::Environment, Place::File);
        ConfigErrors(vec![ConfigError { place, key: String::new(), problem }])
    }

    /// Waits until the files have changed since they were loaded, and stayed the same for an interval since then. Dropping
    /// the future loses nothing.
    pub async fn changed(&mut self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            let sources = self.sources.clone();
            let Ok(now) = spawn_blocking(move || sources.digests()).await else { continue };
            if now == self.loaded {
                self.seen = None;
            } else if self.seen.as_ref() == Some(&now) {
                return;
            } else {
                self.seen = Some(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::Path};

    use tempfile::TempDir;
    use tokio::time::{Instant, timeout};

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(20);
    const ID: &str = "account0000000000000000000000002";

    fn text(secret: &Path) -> String {
        format!("[[accounts]]\nid = \"{ID}\"\napi_key_file = {:?}\n", secret.display().to_string())
    }

    /// Not yet, within some intervals.
    async fn is_quiet(watch: &mut Watch) -> bool {
        timeout(10 * INTERVAL, watch.changed(INTERVAL)).await.is_err()
    }

    async fn changes(watch: &mut Watch) {
        timeout(Duration::from_secs(30), watch.changed(INTERVAL)).await.expect("the change is noticed");
    }

    #[tokio::test]
    async fn each_way_to_change_a_file_is_noticed() {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("key"), "a").unwrap();
        fs::write(path("config.toml"), text(&path("key"))).unwrap();
        let (mut watch, config) = Watch::load(Some(path("config.toml")));
        assert_eq!(config.unwrap().accounts.len(), 1);
        assert!(is_quiet(&mut watch).await);

        // Written in place, with the same length and perhaps within the granularity of a file's times.
        fs::write(path("key"), "b").unwrap();
        changes(&mut watch).await;
        watch.reload().await.unwrap();
        assert!(is_quiet(&mut watch).await);

        // Renamed over.
        fs::write(path("new"), format!("# \n{}", text(&path("key")))).unwrap();
        fs::rename(path("new"), path("config.toml")).unwrap();
        changes(&mut watch).await;
        watch.reload().await.unwrap();

        // Gone, which is an error, and back again as it was.
        let was = fs::read(path("key")).unwrap();
        fs::remove_file(path("key")).unwrap();
        changes(&mut watch).await;
        assert!(watch.reload().await.is_err());
        assert!(is_quiet(&mut watch).await, "an error is not tried again and again");
        fs::write(path("key"), was).unwrap();
        changes(&mut watch).await;
        watch.reload().await.unwrap();
    }

    /// As the kubelet does: `config.toml -> ..data/config.toml`, `..data -> ..TIME`, and a new `..data` is renamed over the
    /// old one.
    #[tokio::test]
    async fn a_swapped_symlink_is_noticed() {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        let put = |time: &str, key: &str| {
            fs::create_dir(path(time)).unwrap();
            fs::write(path(time).join("key"), key).unwrap();
            fs::write(path(time).join("config.toml"), text(&path("key"))).unwrap();
            symlink(time, path("..data_tmp")).unwrap();
            fs::rename(path("..data_tmp"), path("..data")).unwrap();
        };
        put("..1", "a");
        symlink("..data/key", path("key")).unwrap();
        symlink("..data/config.toml", path("config.toml")).unwrap();
        let (mut watch, config) = Watch::load(Some(path("config.toml")));
        config.unwrap();
        assert!(is_quiet(&mut watch).await);
        put("..2", "b");
        changes(&mut watch).await;
        watch.reload().await.unwrap();
        assert!(is_quiet(&mut watch).await);
    }

    #[tokio::test]
    async fn what_came_to_a_panic_is_not_read_again_before_it_changes() {
        let mut loaded = Digests::new();
        loaded.insert(PathBuf::from("one"), None);
        let sources = Sources { path: None, files: BTreeSet::new(), hasher: RandomState::new() };
        for seen in [None, Some(loaded.clone())] {
            let mut watch = Watch { sources: sources.clone(), loaded: loaded.clone(), seen };
            assert!(watch.panicked().to_string().contains("panic"));
            assert_eq!((watch.loaded, watch.seen), (loaded.clone(), None));
        }
    }

    #[tokio::test]
    async fn it_waits_until_a_file_is_written() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, "").unwrap();
        let (mut watch, _) = Watch::load(Some(path.clone()));
        // Longer than two looks, so that each look finds something else.
        let writing = async {
            let began = Instant::now();
            let mut line = 0;
            while began.elapsed() < 20 * INTERVAL {
                line += 1;
                fs::write(&path, format!("# {line}\n")).unwrap();
                tokio::time::sleep(INTERVAL / 4).await;
            }
            Instant::now()
        };
        let noticed = async {
            watch.changed(INTERVAL).await;
            Instant::now()
        };
        let (written, noticed) = tokio::join!(writing, timeout(Duration::from_secs(30), noticed));
        assert!(noticed.unwrap() > written);
    }
}
