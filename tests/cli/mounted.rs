//! Files that a server reads, and the ways in which they are changed under it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::PathBuf,
    thread,
    time::Duration,
};

use tempfile::TempDir;

/// Files by their names.
pub type Files = BTreeMap<String, String>;

/// A folder as the kubelet makes it of a ConfigMap or a Secret: each file is a symlink into `..data`, which is a symlink to a
/// folder with a new name for each change.
pub struct Mounted {
    folder: TempDir,
    changes: u32,
}

impl Mounted {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), changes: 0 }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// All files at once, as the kubelet does it. Those that are not among them are gone.
    pub fn swap(&mut self, files: &Files) {
        self.changes += 1;
        let data = format!("..2026_11_24.{}", self.changes);
        fs::create_dir(self.path(&data)).unwrap();
        for (name, text) in files {
            fs::write(self.path(&data).join(name), text).unwrap();
        }
        self.link(&data, "..data");
        for name in files.keys() {
            if !self.path(name).is_symlink() {
                self.link(&format!("..data/{name}"), name);
            }
        }
    }

    /// Puts a symlink where something may be, which is there at all times.
    fn link(&self, to: &str, at: &str) {
        symlink(to, self.path("..tmp")).unwrap();
        fs::rename(self.path("..tmp"), self.path(at)).unwrap();
    }

    /// Those that are not so already.
    fn differing<'a>(&self, files: &'a Files) -> impl Iterator<Item = (&'a String, &'a String)> {
        let is_so =
            |name: &String, text: &String| fs::read_to_string(self.path(name)).ok().as_ref() == Some(text);
        files.iter().filter(move |(name, text)| !is_so(name, text))
    }

    /// One after the other, in place.
    pub fn overwrite(&self, files: &Files) {
        for (name, text) in self.differing(files) {
            fs::write(self.path(name), text).unwrap();
        }
    }

    /// One after the other, each renamed over the old one, as editors do.
    pub fn rename_over(&self, files: &Files) {
        for (name, text) in self.differing(files) {
            fs::write(self.path("..new"), text).unwrap();
            fs::rename(self.path("..new"), self.path(name)).unwrap();
        }
    }

    /// As [`Mounted::overwrite`], with a pause in the middle of one of the files, `at` this place of it.
    pub fn halting(&self, files: &Files, halting: &str, at: usize, pause: Duration) {
        for (name, text) in self.differing(files) {
            let (first, rest) = text.split_at(if name == halting { at } else { 0 });
            let mut file = File::create(self.path(name)).unwrap();
            file.write_all(first.as_bytes()).unwrap();
            if name == halting {
                thread::sleep(pause);
            }
            file.write_all(rest.as_bytes()).unwrap();
        }
    }
}
