use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Wake, Waker},
};

use proptest::prelude::*;

use super::*;

/// What a transport answers to a call of write.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// It takes so many bytes at most, one at least.
    Takes(usize),
    /// It takes nothing now, and wakes when it does.
    Waits,
    Fails,
    /// It takes nothing, and says so.
    Zero,
}

/// A transport that answers as it is told; once it is told nothing more it takes everything.
#[derive(Default)]
struct Wire {
    answers: VecDeque<Answer>,
    written: Vec<u8>,
    calls: usize,
    flushes: usize,
    /// So many flushes have to wait first: it took more than it could pass on.
    slow_flushes: usize,
    waiting: Option<Waker>,
    shut: bool,
    /// Whom it is shut down for has gone.
    gone: bool,
    vectored: bool,
}

impl Wire {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: answers.into_iter().collect(), vectored: true, ..Self::default() }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(b"abc");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        assert!(!self.shut, "nothing is written after the end");
        self.calls += 1;
        let bytes = bufs.iter().map(|slice| &slice[..]).collect::<Vec<_>>().concat();
        match self.answers.pop_front().unwrap_or(Answer::Takes(usize::MAX)) {
            Answer::Takes(count) => {
                let count = count.max(1).min(bytes.len());
                self.written.extend_from_slice(&bytes[..count]);
                Poll::Ready(Ok(count))
            }
            Answer::Waits => {
                self.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
            Answer::Fails => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Answer::Zero => Poll::Ready(Ok(0)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushes += 1;
        if let Some(left) = self.slow_flushes.checked_sub(1) {
            self.slow_flushes = left;
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Poll::Ready(if self.gone { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) })
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn coalesce(io: Wire) -> (Coalesced<Wire>, Outlet<Wire>) {
    super::coalesce(io, Arc::default())
}

fn write(io: &mut Coalesced<Wire>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    Pin::new(io).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
}

fn drain(outlet: &Outlet<Wire>) -> Poll<io::Result<()>> {
    outlet.poll_drain(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn many_writes_and_flushes_are_one_write() {
    let (mut io, outlet) = coalesce(Wire::answering([]));
    let mut expected = Vec::new();
    for index in 0..100_u8 {
        let frame = [index; 500];
        assert!(matches!(write(&mut io, &frame), Poll::Ready(Ok(500))));
        assert!(Pin::new(&mut io).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready());
        expected.extend_from_slice(&frame);
    }
    assert_eq!(outlet.0.lock().io.calls, 0);
    assert!(outlet.is_blocked(), "something is left");
    assert!(drain(&outlet).is_ready() && drain(&outlet).is_ready());
    assert!(!outlet.is_blocked());
    let inner = outlet.0.lock();
    assert_eq!((inner.io.calls, inner.io.flushes), (1, 1));
    assert_eq!(inner.io.written, expected);
    assert_eq!(inner.buffer.capacity(), 0, "an idle connection has no buffer");
}

/// As TLS does it: what it took and cannot pass on stays in its own buffers, and nobody wakes for that but who flushes.
#[test]
fn what_the_transport_took_but_holds_is_not_written_yet() {
    let large = vec![7; CAPACITY];
    for bytes in [&b"little"[..], &large] {
        let (mut io, outlet) = coalesce(Wire { slow_flushes: 2, ..Wire::answering([]) });
        assert!(write(&mut io, bytes).is_ready());
        for _ in 0..2 {
            assert!(drain(&outlet).is_pending());
            assert!(outlet.is_blocked(), "more would only fill buffers");
            assert!(outlet.0.lock().io.waiting.take().is_some(), "who drains is woken");
        }
        assert!(drain(&outlet).is_ready() && !outlet.is_blocked());
        let inner = outlet.0.lock();
        assert_eq!((inner.io.calls, inner.io.flushes), (1, 3));
        assert_eq!(inner.buffer.capacity(), 0);
    }
}

/// A client that closes first, as one that was told to go does, has not missed anything. Over TLS there would be a goodbye.
#[test]
fn nobody_to_say_goodbye_to_is_no_fault() {
    let (mut io, outlet) = coalesce(Wire { gone: true, ..Wire::answering([]) });
    assert!(write(&mut io, b"last").is_ready());
    let shut = Pin::new(&mut io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(shut, Poll::Ready(Ok(()))), "{shut:?}");
    assert_eq!(outlet.0.lock().io.written, b"last");
}

#[test]
fn buffers_go_round() {
    let (mut one, outlet) = coalesce(Wire::answering([]));
    assert!(write(&mut one, b"one").is_ready());
    let buffer = outlet.0.lock().buffer.as_ptr();
    assert!(drain(&outlet).is_ready());
    let (mut two, outlet) = coalesce(Wire::answering([Answer::Waits]));
    assert!(write(&mut two, b"two").is_ready());
    assert_eq!(outlet.0.lock().buffer.as_ptr(), buffer);
    assert!(drain(&outlet).is_pending());
    // With what was not written.
    drop((two, outlet));
    let (mut three, outlet) = coalesce(Wire::answering([]));
    assert!(write(&mut three, b"three").is_ready());
    assert_eq!(outlet.0.lock().buffer.as_ptr(), buffer);
    assert!(drain(&outlet).is_ready());
    assert_eq!(outlet.0.lock().io.written, b"three", "nothing of anybody else");
}

#[test]
fn what_is_large_passes_uncopied_but_not_before_what_is_gathered() {
    let large = vec![7; CAPACITY];
    for vectored in [true, false] {
        let (mut io, outlet) = coalesce(Wire { vectored, ..Wire::answering([]) });
        assert!(matches!(write(&mut io, &large), Poll::Ready(Ok(CAPACITY))));
        assert_eq!(outlet.0.lock().io.calls, 1);
        assert!(drain(&outlet).is_ready() && !outlet.is_blocked());
        assert_eq!(outlet.0.lock().io.calls, 1, "there was nothing left to write");
    }
    let (mut io, outlet) = coalesce(Wire::answering([]));
    assert!(matches!(write(&mut io, b"before"), Poll::Ready(Ok(6))));
    let Poll::Ready(Ok(taken)) = write(&mut io, &large) else { panic!("it is taken") };
    assert_eq!(taken, CAPACITY - 6, "as much as there is room for");
    assert!(matches!(write(&mut io, &large[taken..]), Poll::Ready(Ok(6))));
    assert!(drain(&outlet).is_ready());
    let written = &outlet.0.lock().io.written;
    assert_eq!((&written[..6], written.len()), (&b"before"[..], CAPACITY + 6));
}

#[test]
fn what_is_read_is_counted() {
    let (mut io, outlet) = coalesce(Wire::default());
    let mut bytes = [0; 8];
    let mut buf = ReadBuf::new(&mut bytes);
    assert!(Pin::new(&mut io).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf).is_ready());
    assert_eq!((buf.filled(), outlet.read().0), (&b"abc"[..], 3));
}

#[test]
fn a_transport_that_fails_or_takes_nothing_is_an_error_for_whoever_comes_next() {
    for (answer, kind) in
        [(Answer::Fails, io::ErrorKind::ConnectionReset), (Answer::Zero, io::ErrorKind::WriteZero)]
    {
        let (mut io, outlet) = coalesce(Wire::answering([answer]));
        assert!(matches!(write(&mut io, b"lost"), Poll::Ready(Ok(4))));
        assert!(matches!(drain(&outlet), Poll::Ready(Err(error)) if error.kind() == kind));

        // By a write that needs room, each time that one does, and by a shutdown.
        let (mut io, _outlet) = coalesce(Wire::answering([answer, answer]));
        let mut gathered = 0;
        while gathered < CAPACITY {
            let Poll::Ready(Ok(taken)) = write(&mut io, &[0; 1000]) else { panic!("there is room") };
            gathered += taken;
        }
        for _ in 0..2 {
            assert!(matches!(write(&mut io, b"more"), Poll::Ready(Err(error)) if error.kind() == kind));
        }
        let (mut io, _outlet) = coalesce(Wire::answering([answer]));
        assert!(matches!(write(&mut io, b"lost"), Poll::Ready(Ok(4))));
        let shut = Pin::new(&mut io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(shut, Poll::Ready(Err(error)) if error.kind() == kind));
    }
}

/// What is written are pieces of this, so that one that is lost, doubled or moved shows.
static NOISE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..400_000).map(|_| next()).collect()
});

#[derive(Debug, Clone)]
enum Action {
    /// Writes slices of these lengths at once.
    Write(Vec<usize>),
    Drain,
}

fn answers() -> impl Strategy<Value = Vec<Answer>> {
    let answer = prop_oneof![
        4 => (1..200_000_usize).prop_map(Answer::Takes),
        2 => (1..100_usize).prop_map(Answer::Takes),
        2 => Just(Answer::Waits),
    ];
    prop::collection::vec(answer, 0..60)
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let length = prop_oneof![6 => 0..2_000_usize, 1 => 0..300_000_usize];
    let action = prop_oneof![
        4 => prop::collection::vec(length, 0..4).prop_map(Action::Write),
        1 => Just(Action::Drain),
    ];
    prop::collection::vec(action, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever the transport does: all bytes, in order, once. Who was told to wait is woken when it can go on.
    #[test]
    fn all_bytes_in_order(answers in answers(), actions in actions(), slow_flushes in 0..5_usize) {
        let (mut io, outlet) = coalesce(Wire { slow_flushes, ..Wire::answering(answers) });
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut next = 0;
        let mut expected = Vec::new();

        // What one does who was told to wait: it waits until it is woken, as then something can be done.
        let wait = |outlet: &Outlet<Wire>| {
            let waiting = outlet.0.lock().io.waiting.take();
            let before = woken.0.load(Ordering::Relaxed);
            waiting.expect("pending without a waker: a lost wake").wake();
            assert_eq!(woken.0.load(Ordering::Relaxed), before + 1, "the waker of whoever waits");
        };

        for action in actions {
            match action {
                Action::Write(lengths) => {
                    let bytes: Vec<&[u8]> = lengths
                        .iter()
                        .map(|&length| {
                            next = (next + 7919) % (NOISE.len() - length);
                            &NOISE[next..next + length]
                        })
                        .collect();
                    let all: Vec<u8> = bytes.concat();
                    let mut slices: Vec<_> = bytes.iter().map(|bytes| IoSlice::new(bytes)).collect();
                    let mut slices = &mut slices[..];
                    let mut left = all.len();
                    while left > 0 {
                        match Pin::new(&mut io).poll_write_vectored(&mut cx, slices) {
                            Poll::Ready(Ok(count)) => {
                                prop_assert!(count > 0 && count <= left);
                                left -= count;
                                IoSlice::advance_slices(&mut slices, count);
                            }
                            Poll::Ready(Err(error)) => panic!("{error}"),
                            Poll::Pending => wait(&outlet),
                        }
                        prop_assert!(outlet.0.lock().buffer.capacity() <= CAPACITY, "bounded");
                    }
                    expected.extend_from_slice(&all);
                }
                Action::Drain => match outlet.poll_drain(&mut cx) {
                    Poll::Ready(Ok(())) => prop_assert_eq!(&outlet.0.lock().io.written, &expected),
                    Poll::Ready(Err(error)) => panic!("{error}"),
                    // Whoever drives goes on with other things, and comes back when it is woken.
                    Poll::Pending => {
                        prop_assert!(outlet.is_blocked());
                        wait(&outlet);
                    }
                },
            }
        }
        while Pin::new(&mut io).poll_shutdown(&mut cx).is_pending() {
            wait(&outlet);
        }
        let inner = outlet.0.lock();
        prop_assert!(inner.io.shut);
        prop_assert_eq!(&inner.io.written, &expected);
    }
}
