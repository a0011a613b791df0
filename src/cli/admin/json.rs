//! Answers for scripts: one document in protobuf's canonical JSON form, with the fields that have their default too, so that
//! a script finds every key.

use std::io;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use crate::proto::DESCRIPTORS;

use super::Answer;

/// The document, with a line break at its end.
pub(super) fn document(answer: &Answer) -> io::Result<String> {
    match answer {
        Answer::Info(message) => write("GetServerInfoResponse", message),
        Answer::Sessions(message) => write("ListUpstreamSessionsResponse", message),
        Answer::Subscribers(message) => write("ListSubscribersResponse", message),
        Answer::Ended(message) => write("ListEndedStreamsResponse", message),
        Answer::Disconnect(message) => write("DisconnectSubscriberResponse", message),
        Answer::Reconnect(message) => write("ReconnectUpstreamResponse", message),
        Answer::Rotate(message) => write("RotateUpstreamResponse", message),
        Answer::Drain(message) => write("DrainResponse", message),
    }
}

fn write(name: &str, message: &impl prost::Message) -> io::Result<String> {
    let pool = DescriptorPool::decode(DESCRIPTORS).map_err(io::Error::other)?;
    let descriptor = pool.get_message_by_name(&format!("hawking.v1.{name}"));
    let descriptor = descriptor.ok_or_else(|| io::Error::other(format!("no descriptor of {name}")))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).map_err(io::Error::other)?;
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::pretty(&mut text);
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic.serialize_with_options(&mut serializer, &options)?;
    text.push(b'\n');
    String::from_utf8(text).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    #[test]
    fn every_answer_has_a_document_with_all_of_its_fields() {
        let subscriber = proto::Subscriber { lag: 7, ..Default::default() };
        let subscribers =
            proto::ListSubscribersResponse { subscribers: vec![subscriber], ..Default::default() };
        let document: serde_json::Value =
            serde_json::from_str(&super::document(&Answer::Subscribers(subscribers)).unwrap()).unwrap();
        let first = &document["subscribers"][0];
        // As protobuf has it: 64 bits do not fit into the numbers of JavaScript.
        assert_eq!((&first["lag"], &first["delivered"]), (&"7".into(), &"0".into()));
        assert_eq!((&first["clientName"], &first["bindings"]), (&"".into(), &serde_json::json!([])));
        for (answer, has) in [
            (Answer::Info(Default::default()), "\"draining\": false"),
            (Answer::Sessions(Default::default()), "\"sessions\": []"),
            (Answer::Subscribers(Default::default()), "\"subscribers\": []"),
            (Answer::Ended(Default::default()), "\"streams\": []"),
            (Answer::Disconnect(Default::default()), "{"),
            (Answer::Reconnect(Default::default()), "{"),
            (Answer::Rotate(Default::default()), "{"),
            (Answer::Drain(Default::default()), "{"),
        ] {
            let document = super::document(&answer).unwrap();
            assert!(document.contains(has) && document.ends_with("}\n"), "{document}");
        }
    }
}
