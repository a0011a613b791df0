//! Each recording, played.

use std::time::Duration;

use hawking::sim::Settings;

use super::{
    deviations::DEVIATIONS,
    player::play,
    recording::{self, Line},
};

async fn conforms(number: &str) {
    if let Err(failures) = play(&recording::read(number)).await {
        panic!("R{number} is answered differently:\n  {}", failures.join("\n  "));
    }
}

macro_rules! recordings {
    ($($name:ident: $number:literal,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                conforms($number).await;
            }
        )*
    };
}

recordings! {
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
    r30_request_id: "30",
    r32_name_metadata: "32",
    r40_user_auth: "40",
}

// Beyond what a client meets on an ordinary day: limits, faults, and what sessions do to each other.
recordings! {
    r27_429_limit: "27",
    r29_token_lifetime: "29",
    r31_superduper_admin: "31",
    r35_two_sessions: "35",
    r37_kill_sessions: "37",
    r38_silent_death: "38",
    r42_cross_tenant_unsubscribe: "42",
    r44_superadmin_wildcard_other_types: "44",
    r61_refresh_then_close: "61",
    r62_listener_restart_refresh_rotate: "62",
    r63_foreign_unsubscribe_then_close: "63",
}

#[test]
fn deviations_are_few_and_explained() {
    assert!(DEVIATIONS.len() <= 5);
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
    for number in ["01", "05", "13", "16", "32"] {
        let lines = recording::read(number);
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.expects()) {
            let spoilt = spoil(line);
            if spoilt.text == line.text {
                continue;
            }
            let mut changed = lines.clone();
            changed[at] = spoilt;
            assert!(play(&changed).await.is_err(), "R{number} line {} is not compared", at + 1);
        }
    }
}

#[tokio::test]
async fn a_frame_too_few_or_too_many_is_noticed() {
    for number in ["09", "16", "19"] {
        let lines = recording::read(number);
        let received: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].dir == "recv").collect();
        for at in received {
            let mut fewer = lines.clone();
            fewer.remove(at);
            assert!(play(&fewer).await.is_err(), "R{number} without line {}", at + 1);
        }
    }
}
