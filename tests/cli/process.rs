//! A command that runs until it is told to end.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// Longer than anything here takes on a busy machine; it is only waited for in full where a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running command, with its output line by line. It is killed when the test is over, however that ends.
pub struct Running {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Lines::read(child.stdout.take().unwrap());
        let stderr = Lines::read(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// The next line of standard output that contains the text; those before it are skipped.
    pub fn stdout_line(&mut self, with: &str) -> String {
        self.stdout.next(with)
    }

    /// The same of standard error.
    pub fn stderr_line(&mut self, with: &str) -> String {
        self.stderr.next(with)
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end: exit code, and the rest of standard output and of standard error.
    pub fn end(mut self) -> (Option<i32>, String, String) {
        let status = self.wait();
        (status.code(), self.stdout.rest(), self.stderr.rest())
    }

    /// Waits for the end: exit code, and all that it ever said.
    pub fn end_with_everything(mut self) -> (Option<i32>, String) {
        let status = self.wait();
        (status.code(), self.stdout.all() + &self.stderr.all())
    }

    /// Closes our end of its standard output, as `head` does when it has seen enough.
    pub fn stop_reading(&mut self) {
        self.stdout.close();
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None if Instant::now() > deadline => panic!("it does not end"),
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of an output, read by a thread so that the pipe never fills up.
struct Lines {
    lines: Option<Receiver<String>>,
    seen: Vec<String>,
}

impl Lines {
    fn read(output: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    // Dropping the pipe is what `close` is for.
                    break;
                }
            }
        });
        Self { lines: Some(lines), seen: Vec::new() }
    }

    fn next(&mut self, with: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let lines = self.lines.as_ref().expect("the output is still read");
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(with) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no line with {with:?} in {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => panic!("ended without {with:?}: {:#?}", self.seen),
            }
        }
    }

    fn rest(&mut self) -> String {
        self.lines.take().into_iter().flatten().map(|line| line + "\n").collect()
    }

    fn all(&mut self) -> String {
        let seen: String = self.seen.drain(..).map(|line| line + "\n").collect();
        seen + &self.rest()
    }

    fn close(&mut self) {
        self.lines = None;
    }
}
