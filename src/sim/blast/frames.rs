//! The events that the source sends: made in memory beforehand, so that a frame costs a copy and two numbers.

/// The account of all events.
pub const ACCOUNT: &str = "account0000000000000000000000002";

/// The binding that lets all of them through.
pub const BINDING: &str = "call.*.*";

/// Before the time of sending in a payload. It stands first in `data`, in 20 digits.
pub const SENT_MARK: &[u8] = br#""sent_ns":""#;

/// The digits of a time of sending and of a sequence. Fixed, so that all frames of one template have one length.
pub const DIGITS: usize = 20;

/// The events of a call, which take turns.
pub const NAMES: [&str; 4] = ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_BRIDGE", "CHANNEL_DESTROY"];
const CALLS: usize = 16;

/// Frames as blackhole makes them of call events, each with its own `msg_id`: the sequence, from 1.
pub struct Frames {
    templates: Vec<Template>,
}

struct Template {
    call_id: String,
    text: Vec<u8>,
    /// Where in `text` the data begin; they end before the last byte.
    data: usize,
    sequence: usize,
    sent: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

impl Frames {
    /// Makes them.
    pub fn new() -> Self {
        let templates =
            (0..NAMES.len() * CALLS).map(|number| Template::new(NAMES[number % 4], number / 4)).collect();
        Self { templates }
    }

    /// The length of the event's frame.
    pub fn length(&self, sequence: u64) -> usize {
        self.template(sequence).text.len()
    }

    /// Appends the frame of the event to `out`.
    pub fn append(&self, sequence: u64, sent_ns: u64, out: &mut Vec<u8>) {
        let template = self.template(sequence);
        let start = out.len();
        out.extend_from_slice(&template.text);
        write_digits(&mut out[start + template.sequence..][..DIGITS], sequence);
        write_digits(&mut out[start + template.sent..][..DIGITS], sent_ns);
    }

    /// What a consumer must get as the event's `data`, if it was sent at `sent_ns`.
    pub fn data(&self, sequence: u64, sent_ns: u64) -> Vec<u8> {
        let mut text = Vec::with_capacity(2048);
        self.append(sequence, sent_ns, &mut text);
        text.pop();
        text.drain(..self.template(sequence).data);
        text
    }

    /// The event's call id.
    pub fn call_id(&self, sequence: u64) -> &str {
        &self.template(sequence).call_id
    }

    fn template(&self, sequence: u64) -> &Template {
        &self.templates[sequence as usize % self.templates.len()]
    }
}

impl Template {
    /// The fields are those of a recorded call event, and as many: 1.2 kB of `data`.
    fn new(name: &str, call: usize) -> Self {
        let zeros = "0".repeat(DIGITS);
        let call_id = format!("{call:02}xk9dmu4ffk97vnlp6qfq");
        let data = format!(
            concat!(
                r#"{{"sent_ns":"{zeros}","#,
                r#""to_uri":"2{call:03}@sales.example.com","to":"2{call:03}@sales.example.com","timestamp":63899123456,"#,
                r#""switch_url":"sip:mod_sofia@192.0.2.16:11000","switch_uri":"sip:192.0.2.16:11000","#,
                r#""request":"2{call:03}@sales.example.com","presence_id":"1{call:03}@sales.example.com","#,
                r#""media_server":"fs-01.example.com","from_uri":"user_{call:03}@sales.example.com","from_tag":"l530ecbu2f","#,
                r#""from":"1{call:03}@sales.example.com","disposition":"DELAYED NEGOTIATION","#,
                r#""custom_sip_headers":{{"x_auth_ip":"192.0.2.203"}},"#,
                r#""custom_channel_vars":{{"account_id":"{account}","account_name":"sales","account_realm":"sales.example.com","#,
                r#""authorizing_id":"d509114b66efabf32dfd78dc464b46dd","authorizing_type":"device","#,
                r#""owner_id":"699ed7e3d583e2577ac017c575f87262","realm":"sales.example.com","#,
                r#""register_overwrite_notify":"false","suppress_unregister_notifications":"false","username":"user_{call:03}"}},"#,
                r#""channel_state":"EXECUTE","channel_call_state":"ACTIVE","channel_created_time":1732233600123456,"#,
                r#""caller_id_number":"1{call:03}","caller_id_name":"Front \"Desk\"","call_direction":"inbound","#,
                r#""call_id":"{call_id}","msg_id":"{zeros}","event_name":"{name}","event_category":"call_event","#,
                r#""app_version":"4.3.0","app_name":"ecallmgr"}}"#
            ),
            zeros = zeros,
            call = call,
            account = ACCOUNT,
            call_id = call_id,
            name = name,
        );
        let head = format!(
            concat!(
                r#"{{"action":"event","subscribed_key":"{binding}","subscription_key":"call.{account}.{name}.*","#,
                r#""name":"{name}","routing_key":"call.{account}.{name}.{call_id}","data":"#
            ),
            binding = BINDING,
            account = ACCOUNT,
            name = name,
            call_id = call_id,
        );
        let text = format!("{head}{data}}}").into_bytes();
        let behind = |mark: &[u8]| {
            text.windows(mark.len()).position(|window| window == mark).map(|at| at + mark.len())
        };
        let sequence = behind(br#""msg_id":""#).unwrap_or_default();
        let sent = behind(SENT_MARK).unwrap_or_default();
        Self { call_id, data: head.len(), sequence, sent, text }
    }
}

fn write_digits(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The number that is written in these digits. `None` if they are none.
pub fn read_digits(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, digit| {
        digit.is_ascii_digit().then(|| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_is_json_with_its_sequence_and_time() {
        let frames = Frames::new();
        for sequence in 1..=100 {
            let mut text = Vec::new();
            frames.append(sequence, 77, &mut text);
            assert_eq!(text.len(), frames.length(sequence));
            let frame: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(frame["data"]["msg_id"], format!("{sequence:020}"));
            assert_eq!(frame["data"]["sent_ns"], format!("{:020}", 77));
            assert_eq!(frame["data"]["call_id"], frames.call_id(sequence));
            let data: serde_json::Value = serde_json::from_slice(&frames.data(sequence, 77)).unwrap();
            assert_eq!(frame["data"], data);
            assert_eq!(read_digits(frame["data"]["msg_id"].as_str().unwrap().as_bytes()), Some(sequence));
        }
    }

    #[test]
    fn payloads_have_the_size_of_real_ones() {
        let length = Frames::new().data(1, 0).len();
        assert!((1100..1500).contains(&length), "{length}");
    }
}
