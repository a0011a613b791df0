//! One call: two legs, from the first ring to the hangup.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Story, people::Party};

/// How a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    Busy,
    /// Rings until the system takes it over; the caller leaves a message.
    Voicemail,
    /// The caller gives up.
    Abandoned,
}

/// One leg of a call.
struct Leg {
    id: String,
    other_id: Option<String>,
    /// As the switch sees it: the caller's leg comes in, the callee's goes out.
    direction: &'static str,
    created: Duration,
    answered: Option<Duration>,
    /// Whose phone it is, if it belongs to the account.
    owner: Option<Party>,
    /// What all events of the leg have in common.
    base: Value,
}

/// Tells a call that begins at `at`.
pub(super) fn tell(story: &mut Story<'_>, at: Duration) {
    let (caller, callee) = parties(story);
    let mut a = leg(story, at, "inbound", &caller, &callee);
    let ringing_from = at + story.dice.between(80, 350);
    let mut b = leg(story, ringing_from, "outbound", &caller, &callee);
    b.other_id = Some(a.id.clone());

    event(story, at, &a, "CHANNEL_CREATE", json!({ "Disposition": "DELAYED NEGOTIATION" }));
    event(story, ringing_from, &b, "CHANNEL_CREATE", json!({}));
    a.other_id = Some(b.id.clone());

    // Lamps of colleagues: shown for some of the calls only, as phones subscribe to them.
    let lamps = story.dice.chance(0.3);
    if lamps {
        presence(story, ringing_from, &b, &callee, "early");
    }

    let outcome = match story.dice.number(1, 100) {
        1..=72 => Outcome::Answered,
        73..=82 => Outcome::Busy,
        83..=92 => Outcome::Voicemail,
        _ => Outcome::Abandoned,
    };
    let end = match outcome {
        Outcome::Answered => talk(story, &mut a, &mut b, ringing_from, lamps.then_some(&callee)),
        Outcome::Busy => {
            let end = ringing_from + story.dice.between(300, 900);
            hang_up(story, end, &b, "USER_BUSY", "486");
            hang_up(story, end + story.dice.between(20, 90), &a, "USER_BUSY", "486");
            end
        }
        Outcome::Voicemail => voicemail(story, &mut a, &b, ringing_from, &callee),
        Outcome::Abandoned => {
            let end = ringing_from + story.dice.between(3_000, 15_000);
            hang_up(story, end, &b, "ORIGINATOR_CANCEL", "487");
            hang_up(story, end + story.dice.between(20, 90), &a, "ORIGINATOR_CANCEL", "487");
            end
        }
    };
    if lamps {
        presence(story, end + Duration::from_millis(100), &b, &callee, "terminated");
    }
}

/// Mostly calls across the border of the account, as in life.
fn parties(story: &mut Story<'_>) -> (Party, Party) {
    let inside = Party::inside(story.dice, story.tenant);
    match story.dice.number(1, 10) {
        1..=4 => (Party::outside(story.dice), inside),
        5..=7 => (inside, Party::outside(story.dice)),
        _ => {
            let colleague = Party::colleague(story.dice, story.tenant, &inside);
            (inside, colleague)
        }
    }
}

/// From the answer to the hangup; gives the time of that.
fn talk(
    story: &mut Story<'_>,
    a: &mut Leg,
    b: &mut Leg,
    ringing_from: Duration,
    lamp: Option<&Party>,
) -> Duration {
    let answered = ringing_from + story.dice.between(2_000, 9_000);
    b.answered = Some(answered);
    event(story, answered, b, "CHANNEL_ANSWER", json!({}));
    let answered_a = answered + story.dice.between(20, 120);
    a.answered = Some(answered_a);
    event(story, answered_a, a, "CHANNEL_ANSWER", json!({ "Disposition": "EARLY MEDIA" }));
    let bridged = answered_a + story.dice.between(10, 60);
    let bridge = |leg: &Leg| json!({ "Bridge-B-Unique-ID": leg.other_id });
    event(story, bridged, a, "CHANNEL_BRIDGE", bridge(a));
    event(story, bridged, b, "CHANNEL_BRIDGE", bridge(b));
    if let Some(party) = lamp {
        presence(story, answered, b, party, "confirmed");
    }

    let length = Duration::from_secs(4) + story.dice.exponential(Duration::from_secs(18));
    let end = bridged + length;
    if length > Duration::from_secs(12) && story.dice.chance(0.35) {
        let held = bridged + length.mul_f64(0.3);
        event(story, held, a, "CHANNEL_HOLD", json!({}));
        event(story, held + length.mul_f64(0.25), a, "CHANNEL_UNHOLD", json!({}));
    }
    // Either side hangs up first.
    let (first, second) = if story.dice.chance(0.5) { (&*a, &*b) } else { (&*b, &*a) };
    hang_up(story, end, first, "NORMAL_CLEARING", "200");
    hang_up(story, end + story.dice.between(15, 80), second, "NORMAL_CLEARING", "200");
    end
}

/// Nobody answers, and the caller leaves a message.
fn voicemail(
    story: &mut Story<'_>,
    a: &mut Leg,
    b: &Leg,
    ringing_from: Duration,
    callee: &Party,
) -> Duration {
    let given_up = ringing_from + story.dice.between(12_000, 20_000);
    hang_up(story, given_up, b, "NO_ANSWER", "487");
    if callee.user.is_none() {
        hang_up(story, given_up + story.dice.between(20, 90), a, "NO_ANSWER", "480");
        return given_up;
    }
    let answered = given_up + story.dice.between(50, 200);
    a.answered = Some(answered);
    event(story, answered, a, "CHANNEL_ANSWER", json!({}));
    let end = answered + story.dice.between(6_000, 15_000);
    hang_up(story, end, a, "NORMAL_CLEARING", "200");

    let id = format!("{}-{}", story.month(end), story.dice.hex(32));
    story.document(end + Duration::from_millis(200), "created", "mailbox_message", &id, true);
    let address = format!("{}@{}", callee.number, story.tenant.realm);
    let lamp = json!({
        "App-Name": "callflow", "Event-Category": "presence", "Event-Name": "mwi_update",
        "To": address, "Messages-New": story.dice.number(1, 5), "Messages-Saved": story.dice.number(0, 3),
        "Messages-Waiting": "yes",
    });
    story.publish(end + Duration::from_millis(250), "presence_mwi_update", json!({}), lamp);
    given_up
}

fn leg(story: &mut Story<'_>, at: Duration, direction: &'static str, caller: &Party, callee: &Party) -> Leg {
    let id = call_id(story);
    let realm = &story.tenant.realm;
    let owner = if direction == "inbound" { caller } else { callee };
    let account = &story.tenant.account_id;
    let mut vars = json!({
        "Account-ID": account, "Account-Name": story.tenant.name, "Account-Realm": realm, "Realm": realm,
        "Channel-Authorized": "true", "Ecallmgr-Node": "ecallmgr@apps1.example.com",
        "Bridge-ID": id, "Global-Resource": if owner.device.is_none() { "true" } else { "false" },
    });
    if let (Some(device), Some(user)) = (&owner.device, &owner.user) {
        vars["Authorizing-ID"] = device.as_str().into();
        vars["Authorizing-Type"] = "device".into();
        vars["Owner-ID"] = user.as_str().into();
        vars["Username"] = format!("user_{}", owner.number).into();
    }
    let from = format!("{}@{realm}", caller.number);
    let to = format!("{}@{realm}", callee.number);
    let base = json!({
        "App-Name": "ecallmgr", "Event-Category": "call_event",
        "Call-Direction": direction, "Call-ID": id,
        "Caller-ID-Name": caller.name, "Caller-ID-Number": caller.number,
        "Callee-ID-Name": callee.name, "Callee-ID-Number": callee.number,
        "From": from, "From-Uri": from, "From-Tag": story.dice.hex(10), "To": to, "To-Uri": to, "Request": to,
        "Presence-ID": format!("{}@{realm}", owner.number),
        "Custom-Channel-Vars": vars,
        "Custom-SIP-Headers": { "X-AUTH-IP": format!("192.0.2.{}", story.dice.number(10, 99)) },
        "Media-Server": "media1.example.com",
        "Switch-URI": "sip:192.0.2.5:11000", "Switch-URL": "sip:mod_sofia@192.0.2.5:11000",
        "Switch-Hostname": "media1.example.com", "Switch-Nodename": "freeswitch@media1.example.com",
        "Channel-Created-Time": u64::try_from(story.unix(at).as_micros()).unwrap_or_default(),
    });
    let owner = owner.device.is_some().then(|| owner.clone());
    Leg { id, other_id: None, direction, created: at, answered: None, owner, base }
}

/// Ids as they are met: made by the switch, or by phones, which put dots and `@` into them.
fn call_id(story: &Story<'_>) -> String {
    let dice = &*story.dice;
    match dice.number(1, 3) {
        1 => dice.uuid(),
        2 => format!("{}@192.0.2.{}", dice.uuid(), dice.number(10, 99)),
        _ => format!("{}.{}@pbx.{}", dice.hex(12), dice.hex(4), story.tenant.realm),
    }
}

fn event(story: &mut Story<'_>, at: Duration, leg: &Leg, name: &str, more: Value) {
    let mut event = leg.base.clone();
    event["Event-Name"] = name.into();
    event["Timestamp"] = story.gregorian(at).into();
    event["Channel-Call-State"] = match name {
        "CHANNEL_CREATE" => "RINGING",
        "CHANNEL_HOLD" => "HELD",
        "CHANNEL_DESTROY" => "HANGUP",
        _ => "ACTIVE",
    }
    .into();
    if let Some(other) = &leg.other_id {
        event["Other-Leg-Call-ID"] = other.as_str().into();
    }
    if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
        event.extend(more);
    }
    story.publish(at, "call_event", json!({}), event);
}

/// Kazoo sends the durations as text, in whole seconds (F40).
fn hang_up(story: &mut Story<'_>, at: Duration, leg: &Leg, cause: &str, code: &str) {
    let seconds = |from: Duration, to: Duration| to.saturating_sub(from).as_secs().to_string();
    let ringing_until = leg.answered.unwrap_or(at);
    let mut more = json!({
        "Hangup-Cause": cause, "Hangup-Code": format!("sip:{code}"),
        "Disposition": if leg.answered.is_some() { "ANSWER" } else { "" },
        "Duration-Seconds": seconds(leg.created, at),
        "Ringing-Seconds": seconds(leg.created, ringing_until),
        "Billing-Seconds": leg.answered.map_or_else(|| "0".into(), |answered| seconds(answered, at)),
        "User-Agent": if leg.owner.is_some() { "Yealink SIP-T54W 96.86.0.70" } else { "carrier-sbc" },
    });
    if leg.answered.is_some() {
        more["Remote-SDP"] = sdp(story).into();
    }
    event(story, at, leg, "CHANNEL_DESTROY", more);
}

fn sdp(story: &Story<'_>) -> String {
    let (host, port) = (story.dice.number(10, 99), story.dice.number(8_000, 16_000) * 2);
    format!(
        "v=0\r\no=- {} 1 IN IP4 192.0.2.{host}\r\ns=-\r\nc=IN IP4 192.0.2.{host}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP 9 8 0 101\r\na=rtpmap:9 G722/8000\r\na=rtpmap:8 PCMA/8000\r\n\
         a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n",
        story.dice.number(1_000_000, 9_999_999)
    )
}

fn presence(story: &mut Story<'_>, at: Duration, leg: &Leg, party: &Party, state: &str) {
    if party.device.is_none() {
        return;
    }
    let address = format!("{}@{}", party.number, story.tenant.realm);
    let other = leg.base["From"].clone();
    let event = json!({
        "App-Name": "ecallmgr", "Event-Category": "presence", "Event-Name": "update",
        "Presence-ID": address, "State": state, "Call-ID": leg.id, "Call-Direction": leg.direction,
        "From": address, "To": other, "Switch-URI": "sip:192.0.2.5:11000",
    });
    story.publish(at, "presence_update", json!({}), event);
    let event = json!({
        "App-Name": "omnipresence", "Event-Category": "presence", "Event-Name": "dialog_update",
        "Presence-ID": address, "State": state, "Call-ID": leg.id, "Direction": "recipient",
        "From": format!("sip:{address}"), "To": format!("sip:{}", other.as_str().unwrap_or_default()),
    });
    story.publish(at + Duration::from_millis(5), "presence_dialog", json!({}), event);
}
