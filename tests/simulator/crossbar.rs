//! What Crossbar tells of accounts, sessions and calls.

use bytes::Bytes;
use hawking::{
    binding::Flavour,
    sim::{Event, Settings, Simulator},
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::wire::{Came, upgrade_in_memory};

const ACCOUNT: &str = "account0000000000000000000000002";

async fn get(sim: &Simulator, token: &str, path: &str) -> (u16, Value) {
    let request = http::Request::get(sim.crossbar_url().join(path).unwrap().as_str())
        .header("x-auth-token", token)
        .body(Bytes::new())
        .unwrap();
    let answer = sim.transport().send(request).await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn descendants_come_with_their_tree_and_in_pages_where_it_pages() {
    let sim = Simulator::in_memory(Settings { page_size: Some(2), ..Settings::default() });
    let path = "/v2/accounts/account0000000000000000000000001/descendants?paginate=false";
    let (status, first) = get(&sim, "tok-master", path).await;
    assert_eq!((status, first["data"].as_array().unwrap().len()), (200, 2));
    let next = first["next_start_key"].as_str().unwrap();
    let (_, second) = get(&sim, "tok-master", &format!("{path}&start_key={next}")).await;
    assert_eq!(second["next_start_key"], Value::Null);
    let [last] = &second["data"].as_array().unwrap()[..] else { panic!("{second}") };
    let above = ["account0000000000000000000000001", ACCOUNT];
    assert_eq!((&last["tree"], &last["realm"]), (&json!(above), &json!("acct4.2600hz.com")));

    let (status, _) = get(&sim, "tok-acct3", &format!("/v2/accounts/{ACCOUNT}/descendants")).await;
    assert_eq!(status, 403);
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_account_its_calls_and_its_sessions() {
    let sim = Simulator::in_memory(Settings { flavour: Flavour::K5, nodes: 2, ..Settings::default() });
    let (_, account) = get(&sim, "tok-acct2", &format!("/v2/accounts/{ACCOUNT}")).await;
    assert_eq!(account["data"]["realm"], "wefwefwefwef.2600hz.com");

    sim.publish(&Event::call(&sim.accounts()[1], "CHANNEL_CREATE", "a@b")).unwrap();
    let (_, channels) = get(&sim, "tok-acct2", &format!("/v2/accounts/{ACCOUNT}/channels")).await;
    assert_eq!((&channels["data"][0]["uuid"], channels["data"][1].is_null()), (&json!("a@b"), true));

    // On whichever node, a session is listed.
    for _ in 0..2 {
        let mut socket = upgrade_in_memory(&sim).await.socket.unwrap();
        let subscribe =
            r#"{"action":"subscribe","auth_token":"tok-acct2","data":{"binding":"fax.status.*"}}"#;
        socket.send(Message::Text(subscribe.into())).await;
        assert!(matches!(socket.next().await, Some(Came::Text(_))));
        let (_, sessions) = get(&sim, "tok-acct2", &format!("/v2/accounts/{ACCOUNT}/websockets")).await;
        let sessions = sessions["data"].as_array().unwrap();
        let session = sessions.last().unwrap();
        assert_eq!(session["bindings"], json!(["fax.status.*"]));
        let id = session["websocket_session_id"].as_str().unwrap();
        let (status, one) = get(&sim, "tok-acct2", &format!("/v2/accounts/{ACCOUNT}/websockets/{id}")).await;
        assert_eq!((status, &one["data"]["bindings"]), (200, &json!(["fax.status.*"])));
    }
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_catalogue_is_the_flavours_own() {
    for (flavour, modules, conference) in [
        (Flavour::K4, "call conference fax object presence", "conference.event.{CONFERENCE_ID}.{CALL_ID}"),
        (Flavour::V4_3, "call conference fax object", "conference.event.{CONFERENCE_ID}.*.{EVENT}"),
        (
            Flavour::K5,
            "call conference fax object presence stream",
            "conference.event.{EVENT}.{CONFERENCE_ID}.{CALL_ID}",
        ),
    ] {
        let sim = Simulator::in_memory(Settings { flavour, ..Settings::default() });
        let (_, catalogue) = get(&sim, "", "/v2/websockets").await;
        let data = catalogue["data"].as_object().unwrap();
        assert_eq!(data.keys().map(String::as_str).collect::<Vec<_>>().join(" "), modules);
        assert_eq!(data["conference"][0], conference);
        sim.shutdown().await;
    }
}
