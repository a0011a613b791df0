//! What goes on beside the calls.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Story, people::Party};

/// Now and then, as a call arrives, something else happens in the account too.
pub(super) fn tell(story: &mut Story<'_>, at: Duration) {
    let at = at + story.dice.between(500, 3_000);
    match story.dice.number(1, 100) {
        1..=8 => edit(story, at),
        9..=12 => hire(story, at),
        13..=17 => fax(story, at),
        18..=23 => conference(story, at),
        _ => {}
    }
}

/// Somebody changes a setting.
fn edit(story: &mut Story<'_>, at: Duration) {
    let party = Party::inside(story.dice, story.tenant);
    match (story.dice.chance(0.5), party.device, party.user) {
        (true, Some(device), _) => story.document(at, "edited", "device", &device, false),
        (_, _, Some(user)) => story.document(at, "edited", "user", &user, false),
        _ => {}
    }
}

/// Somebody new: a user, a device and a callflow.
fn hire(story: &mut Story<'_>, at: Duration) {
    for (index, kind) in ["user", "device", "callflow"].into_iter().enumerate() {
        let id = story.dice.hex(32);
        story.document(at + Duration::from_millis(40 * index as u64), "created", kind, &id, false);
    }
}

/// A fax is sent, page by page.
fn fax(story: &mut Story<'_>, at: Duration) {
    let job = format!("{}-{}", story.month(at), story.dice.hex(32));
    let box_id = story.dice.hex(32);
    let pages = story.dice.number(1, 4);
    let status = |state: &str, text: String, page: u64| {
        json!({
            "App-Name": "fax", "Event-Category": "fax", "Event-Name": "status",
            "Job-ID": job, "FaxBox-ID": box_id, "Account-ID": story.tenant.account_id,
            "Fax-State": state, "Status": text, "Direction": "outgoing", "Page": page, "Stage": "negociated",
            "Fax-Info": { "Fax-Total-Pages": pages, "Fax-Transferred-Pages": page },
        })
    };
    let mut statuses: Vec<Value> = vec![status("start", "Fax started".into(), 0)];
    statuses.extend((1..=pages).map(|page| status("send", format!("Sending page {page} of {pages}"), page)));
    statuses.push(status("end", "Fax sent".into(), pages));
    let mut when = at;
    for status in statuses {
        story.publish(when, "fax_status", json!({}), status);
        when += story.dice.between(1_500, 4_000);
    }
    story.document(when, "edited", "fax", &job, true);
}

/// A few people meet.
fn conference(story: &mut Story<'_>, at: Duration) {
    let room = format!("{}", story.dice.number(3_001, 3_009));
    let instance = story.dice.uuid();
    let mut joined = at;
    for participant in 1..=story.dice.number(2, 4) {
        let party = Party::inside(story.dice, story.tenant);
        let call = format!("{}@192.0.2.{}", story.dice.uuid(), story.dice.number(10, 99));
        let member = |event: &str| {
            json!({
                "App-Name": "ecallmgr", "Event-Category": "conference", "Event-Name": "event",
                "Event": event, "Conference-ID": room, "Instance-ID": instance,
                "Account-ID": story.tenant.account_id, "Call-ID": call, "Participant-ID": participant,
                "Caller-ID-Name": party.name, "Caller-ID-Number": party.number,
                "Custom-Channel-Vars": { "Account-ID": story.tenant.account_id },
            })
        };
        let (add, del) = (member("add-member"), member("del-member"));
        story.publish(joined, "conference_event", json!({}), add);
        let left = joined + Duration::from_secs(10) + story.dice.exponential(Duration::from_secs(20));
        story.publish(left, "conference_event", json!({}), del);
        joined += story.dice.between(800, 4_000);
    }
}
