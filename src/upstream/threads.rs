//! Threads of their own for the sessions.
//!
//! 4.3 and K5 throw away what is not read at once (F46, G30). Among the tasks that send to consumers a session would have its
//! turn only after theirs, and where consumers keep all processors busy that is too late. A thread that mostly sleeps is
//! given its turn by the operating system as soon as there is something to read, whatever the others have to do.

use std::{future::Future, io};

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

/// Where tasks of the upstream run. Dropped, it ends them.
#[derive(Debug, Default)]
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    /// So many threads; none: tasks run where they are spawned.
    ///
    /// # Errors
    ///
    /// Where the system gives no more threads.
    pub fn start(count: usize) -> io::Result<Self> {
        if count == 0 {
            return Ok(Self(None));
        }
        let mut runtime = Builder::new_multi_thread();
        runtime.worker_threads(count).thread_name("upstream").enable_all();
        Ok(Self(Some(runtime.build()?)))
    }

    /// Spawns a task.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        match &self.0 {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // To wait for its threads is not allowed where other tasks run.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_run_on_a_thread_of_their_own_or_here() {
        for (count, name) in [(1, Some("upstream")), (0, std::thread::current().name())] {
            let threads = Threads::start(count).unwrap();
            let name = name.map(str::to_owned);
            let task = threads.spawn(async move {
                assert_eq!(std::thread::current().name().map(str::to_owned), name);
            });
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn dropped_it_ends_what_runs() {
        let threads = Threads::start(1).unwrap();
        let task = threads.spawn(std::future::pending());
        drop(threads);
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
