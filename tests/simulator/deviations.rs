//! Where the simulator, or the way in which it is compared, departs from the recordings: fifteen at most, none about
//! silence, repair, counts or closing.

/// A deviation.
pub struct Deviation {
    /// The recordings that it concerns, by flavour and number.
    pub recordings: &'static [&'static str],
    /// What differs.
    pub what: &'static str,
    /// Why it does.
    pub why: &'static str,
}

/// All of them.
pub const DEVIATIONS: &[Deviation] = &[
    Deviation {
        recordings: &[
            "k4 16", "k4 17", "k4 18", "k4 19", "k4 24", "4.3 16", "k5 16", "k5 18", "k5 19", "k5 24",
        ],
        what: "the frames that one event makes for several bindings are compared without their order, as for call events",
        why: "the real order is that of an Erlang hash table and of processes that race: it differs from run to run",
    },
    Deviation {
        recordings: &["k4 21"],
        what: "that the server sends no ping of its own is watched for a moment, not for 40 s",
        why: "so as not to wait; `faults.rs` watches a session for an hour under a paused clock",
    },
    Deviation {
        recordings: &["k4 26", "k5 26"],
        what: "a silent connection is closed after 1.5 s, not 5 s",
        why: "the test sets `request_timeout` so as not to wait; that its default is 5 s is checked",
    },
    Deviation {
        recordings: &["k4 22", "k5 22"],
        what: "not played: `protocol.rs` sends these frames; messages of 16 and 64 MB are not sent",
        why: "they are told in words there, not in bytes; the large ones only take time",
    },
    Deviation {
        recordings: &["k4 34", "4.3 34", "k5 34"],
        what: "played by `faults.rs` with fewer events, under a paused clock; how much the network took in is not compared",
        why: "that is the kernel's; after how long the session is dropped, and its torn last frame, are compared",
    },
    Deviation {
        recordings: &["k4 51", "k4 52", "k4 54", "k4 55", "4.3 55", "k5 91"],
        what: "not played: measurements of the server's speed, and of how much a storm makes 4.3 and K5 lose",
        why: "the numbers are that machine's; that events and replies are lost, and which, is counted in `faults.rs`, as is \
              what K4 keeps for a reader that pauses (R54)",
    },
    Deviation {
        recordings: &["k4 33", "k4 41", "k4 53", "4.3 53"],
        what: "the remarks about order, speed and losses in bursts are not compared",
        why: "races; the simulator loses what waits for the socket, not what its own publishing outruns",
    },
    Deviation {
        recordings: &["4.3 14", "k5 86"],
        what: "how many replies come of those pipelined, and which, is not compared; that all were executed is",
        why: "a race: the real server loses them while it is busy, the simulator only behind what waits for the socket",
    },
    Deviation {
        recordings: &["k5 87"],
        what: "not played: `faults.rs` watches the pings under a paused clock",
        why: "the recorder's raw reading takes minutes",
    },
    Deviation {
        recordings: &["k5 73"],
        what: "calls of the action `api` that reach an API are left out",
        why: "nothing listens where the simulator's `api` goes, and then the real one is silent too (G8)",
    },
    Deviation {
        recordings: &["k5 76"],
        what: "from the modules on that are not loaded by default (notifications, live, dialog, relay) it is not played",
        why: "they are not simulated: their exchanges are guesses even in the recording",
    },
    Deviation {
        recordings: &[
            "k5 70", "k5 72", "k5 74", "k5 75", "k5 80", "k5 81", "k5 82", "k5 83", "k5 84", "k5 85",
        ],
        what: "events that the recorder published without saying so are told from what came and from its remarks",
        why: "the lines do not have them",
    },
];
