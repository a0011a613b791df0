//! Each recording, played.

use std::time::Duration;

use hawking::{binding::Flavour, sim::Settings};

use super::{
    deviations::DEVIATIONS,
    player::play,
    recording::{self, Line},
};

/// What a recording was made on: the server still had what a session of R5-84 left behind when it was killed.
fn before(flavour: Flavour, number: &str) -> Vec<Line> {
    if (flavour, number) != (Flavour::K5, "85") {
        return Vec::new();
    }
    let of_the_killed = |line: &Line| {
        line.conn.as_deref() == Some("old-kill")
            || line.text.contains("/kill")
            || line.text.contains("killed")
    };
    recording::read(flavour, "84").into_iter().filter(of_the_killed).collect()
}

async fn conforms(flavour: Flavour, number: &str) {
    let mut lines = before(flavour, number);
    lines.extend(recording::read(flavour, number));
    if let Err(failures) = play(flavour, number, &lines).await {
        panic!("{flavour} R{number} is answered differently:\n  {}", failures.join("\n  "));
    }
}

macro_rules! recordings {
    ($played:ident, $flavour:expr, $($name:ident: $number:literal,)*) => {
        const $played: &[&str] = &[$($number),*];
        $(
            #[tokio::test]
            async fn $name() {
                conforms($flavour, $number).await;
            }
        )*
    };
}

recordings! {
    K4,
    Flavour::K4,
    r01_subscribe_ok: "01",
    r02_subscribe_wrong_account: "02",
    r03_bad_token: "03",
    r04_no_token: "04",
    r05_missing_keys: "05",
    r06_unsupported_event: "06",
    r07_callid_with_dots: "07",
    r08_wildcard: "08",
    r09_overlap_duplicates: "09",
    r10_unsubscribe_one: "10",
    r11_unsubscribe_all: "11",
    r12_unknown_action: "12",
    r13_ping: "13",
    r14_rate_limited_burst: "14",
    r15_bindings_list: "15",
    r16_conference: "16",
    r17_fax: "17",
    r18_presence: "18",
    r19_object: "19",
    r20_binary_frame: "20",
    r21_ws_ping: "21",
    r23_invalid_json: "23",
    r24_month_rollover: "24",
    r25_real_call_events: "25",
    r26_http: "26",
    r27_429_limit: "27",
    r28_idle_timeout: "28",
    r29_token_lifetime: "29",
    r30_request_id: "30",
    r31_superduper_admin: "31",
    r32_name_metadata: "32",
    r33_event_order: "33",
    r35_two_sessions: "35",
    r37_kill_sessions: "37",
    r38_silent_death: "38",
    r39_app_restart: "39",
    r40_user_auth: "40",
    r41_throughput: "41",
    r42_cross_tenant_unsubscribe: "42",
    r44_superadmin_wildcard_other_types: "44",
    r46_broker_restart: "46",
    r47_server_stop_signals: "47",
    r48_crash_cleans_up: "48",
    r53_burst_loss: "53",
    r56_account_id_forms: "56",
    r58_action_with_hash: "58",
    r59_hash_in_bindings: "59",
    r61_refresh_then_close: "61",
    r62_listener_restart_refresh_rotate: "62",
    r63_foreign_unsubscribe_then_close: "63",
}

recordings! {
    V4_3,
    Flavour::V4_3,
    v43_06_unsupported_event: "06",
    v43_14_rate_limited_burst: "14",
    v43_16_conference: "16",
    v43_18_presence: "18",
    v43_53_burst_loss: "53",
}

recordings! {
    K5,
    Flavour::K5,
    k5_01_subscribe_ok: "01",
    k5_03_bad_token: "03",
    k5_04_no_token: "04",
    k5_05_missing_keys: "05",
    k5_06_unsupported_event: "06",
    k5_07_callid_with_dots: "07",
    k5_09_overlap_duplicates: "09",
    k5_10_unsubscribe_one: "10",
    k5_11_unsubscribe_all: "11",
    k5_12_unknown_action: "12",
    k5_13_ping: "13",
    k5_16_conference: "16",
    k5_18_presence: "18",
    k5_19_object: "19",
    k5_23_invalid_json: "23",
    k5_24_month_rollover: "24",
    k5_26_http: "26",
    k5_70_subscribe_shapes: "70",
    k5_71_unsubscribe_shapes: "71",
    k5_72_authorization_header: "72",
    k5_73_actions: "73",
    k5_74_call_overlaps: "74",
    k5_75_conference_forms: "75",
    k5_76_other_bindings: "76",
    k5_80_month_refresh: "80",
    k5_81_listener_restart: "81",
    k5_82_listener_restart_unsub_sub: "82",
    k5_83_foreign_unsubscribe: "83",
    k5_84_old_new_close_old: "84",
    k5_85_same_amqp_key_two_names: "85",
    k5_86_pipelined: "86",
    k5_88_event_shape: "88",
}

#[test]
fn every_recording_is_played_or_its_absence_explained() {
    for (flavour, played) in [(Flavour::K4, K4), (Flavour::V4_3, V4_3), (Flavour::K5, K5)] {
        let explained = |number: &str| {
            let named = format!("{flavour} {number}");
            DEVIATIONS.iter().any(|deviation| deviation.recordings.contains(&named.as_str()))
        };
        for number in recording::numbers(flavour) {
            assert!(played.contains(&number.as_str()) || explained(&number), "{flavour} {number}");
        }
    }
}

#[test]
fn deviations_are_few_and_explained() {
    assert!(DEVIATIONS.len() <= 15);
    for deviation in DEVIATIONS {
        assert!(!deviation.recordings.is_empty() && !deviation.what.is_empty() && !deviation.why.is_empty());
    }
}

#[test]
fn a_silent_connection_is_given_five_seconds_by_default() {
    assert_eq!(Settings::default().request_timeout, Duration::from_secs(5));
}

/// Changes what a line says is seen.
fn spoil(line: &Line) -> Line {
    let mut spoilt = line.clone();
    spoilt.text = match line.dir.as_str() {
        "recv-pong" => line.text.replacen("b'", "b'?", 1),
        "close" => match line.text.split_once("code 10") {
            Some((before, after)) => format!("{before}code 30{after}"),
            None => "peer close frame: code 1000 reason ''".into(),
        },
        "open" => line.text.replacen("Cowboy", "Ranch", 1),
        "recv-raw" if line.text.starts_with("b''") => "b'' after 5.0 s".into(),
        // A status, a key's or a word's last letter: the first quoted word that is no id.
        _ => line
            .text
            .replacen("subscrib", "describ", 1)
            .replacen("success", "failure", 1)
            .replacen("ok", "ko", 1),
    };
    spoilt
}

#[tokio::test]
async fn a_changed_answer_is_noticed_wherever_it_stands() {
    for (flavour, number) in ["01", "05", "13", "16", "32"]
        .map(|number| (Flavour::K4, number))
        .into_iter()
        .chain([(Flavour::K5, "71")])
    {
        let lines = recording::read(flavour, number);
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.expects()) {
            let spoilt = spoil(line);
            if spoilt.text == line.text {
                continue;
            }
            let mut changed = lines.clone();
            changed[at] = spoilt;
            let played = play(flavour, number, &changed).await;
            assert!(played.is_err(), "{flavour} R{number} line {} is not compared", at + 1);
        }
    }
}

/// Silence is compared too: an event that came, taken for one that did not, is noticed, wherever the others came.
#[tokio::test]
async fn an_event_that_the_recording_says_was_lost_must_be_lost() {
    let lines = recording::read(Flavour::K5, "81");
    for kind in ["doc_created", "fax.status", "update", "pivot"] {
        let of_kind = |line: &Line| {
            let frame: serde_json::Value = serde_json::from_str(&line.text).unwrap();
            line.is_event() && frame["routing_key"].as_str().unwrap().starts_with(kind)
        };
        let at = lines.iter().rposition(|line| line.is_event() && of_kind(line)).unwrap();
        let mut fewer = lines.clone();
        fewer.remove(at);
        assert!(play(Flavour::K5, "81", &fewer).await.is_err(), "{kind} comes and is said not to");
    }
}

#[tokio::test]
async fn a_frame_too_few_or_too_many_is_noticed() {
    for number in ["09", "16", "19"] {
        let lines = recording::read(Flavour::K4, number);
        let received: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].dir == "recv").collect();
        for at in received {
            let mut fewer = lines.clone();
            fewer.remove(at);
            assert!(play(Flavour::K4, number, &fewer).await.is_err(), "R{number} without line {}", at + 1);
        }
    }
}
