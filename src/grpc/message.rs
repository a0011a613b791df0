//! The hub's types as messages of `hawking.v1`.
//!
//! Events do not pass through here: the hub's views hold them encoded.

use std::{collections::HashMap, time::SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost_types::Timestamp;

use crate::{
    hub::{self, BindingReport, Epoch, GapReason, Sequence, UpstreamChange, UpstreamState, Window},
    proto,
};

/// A message with gRPC's prefix: not compressed, and its length.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + length);
    out.put_u8(0);
    // No message of ours comes near 4 GiB: requests are bounded, and so is what is said of them.
    out.put_u32(length as u32);
    // Grows where it must, so it cannot fail.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// A response with its prefix.
pub(crate) fn response(kind: proto::subscribe_response::Kind) -> Bytes {
    frame(&proto::SubscribeResponse { kind: Some(kind) })
}

pub(crate) fn cursor(epoch: Epoch, sequence: Sequence) -> proto::Cursor {
    proto::Cursor { epoch: epoch.to_string(), sequence: sequence.0 }
}

pub(crate) fn cursor_text(epoch: Epoch, sequence: Sequence) -> String {
    hub::Cursor { epoch, sequence }.to_string()
}

pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    time.into()
}

/// A number that never comes near the bound.
pub(crate) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(crate) fn window(window: &Window) -> proto::ReplayWindow {
    proto::ReplayWindow {
        oldest: Some(cursor(window.epoch, window.oldest)),
        newest: Some(cursor(window.epoch, window.newest)),
        oldest_time: window.oldest_time.map(timestamp),
    }
}

pub(crate) fn upstream_state(state: UpstreamState) -> proto::UpstreamState {
    match state {
        UpstreamState::Connecting => proto::UpstreamState::Connecting,
        UpstreamState::Live => proto::UpstreamState::Live,
        UpstreamState::Degraded => proto::UpstreamState::Degraded,
        UpstreamState::Down => proto::UpstreamState::Down,
    }
}

pub(crate) fn upstream_status(
    change: &UpstreamChange,
    since: SystemTime,
    position: proto::Cursor,
    bindings: Vec<proto::BindingStatus>,
) -> proto::UpstreamStatus {
    proto::UpstreamStatus {
        state: upstream_state(change.state).into(),
        flavour: change.flavour.map(|flavour| flavour.as_str().to_owned()).unwrap_or_default(),
        since_time: Some(timestamp(since)),
        last_life_time: change.last_life.map(timestamp),
        detail: change.detail.to_string(),
        position: Some(position),
        bindings,
    }
}

/// The state of a binding, and the reason where it is not held.
pub(crate) fn binding_state(state: &hub::BindingState) -> (proto::BindingState, &str) {
    match state {
        hub::BindingState::Active => (proto::BindingState::Active, ""),
        hub::BindingState::Pending => (proto::BindingState::Pending, "upstream has not confirmed it yet"),
        hub::BindingState::Refused(reason) => (proto::BindingState::Refused, reason),
    }
}

/// How one binding stands, under the name by which it was asked for.
pub(crate) fn binding_status(requested: &str, report: &BindingReport) -> proto::BindingStatus {
    let (state, reason) = binding_state(&report.state);
    proto::BindingStatus {
        requested: requested.to_owned(),
        binding: report.binding.to_string(),
        state: state.into(),
        reason: reason.to_owned(),
        upstream_binding: report.upstream_binding.as_deref().unwrap_or_default().to_owned(),
        proven_time: report.proven.map(timestamp),
    }
}

/// How the requested bindings stand, in the order of the request: `requested` has each as it was asked for, and its
/// canonical form.
pub(crate) fn binding_statuses(
    requested: &[(String, String)],
    reports: &[BindingReport],
) -> Vec<proto::BindingStatus> {
    let reports: HashMap<&str, &BindingReport> =
        reports.iter().map(|report| (&*report.binding, report)).collect();
    let statuses = requested.iter().map(|(requested, canonical)| match reports.get(canonical.as_str()) {
        Some(report) => binding_status(requested, report),
        None => proto::BindingStatus {
            requested: requested.clone(),
            binding: canonical.clone(),
            state: proto::BindingState::Pending.into(),
            ..Default::default()
        },
    });
    statuses.collect()
}

pub(crate) fn gap(gap: &hub::Gap, epoch: Epoch) -> proto::Gap {
    proto::Gap {
        gap_id: gap.id,
        reason: gap_reason(gap.reason).into(),
        after: Some(cursor(epoch, gap.after)),
        before: gap.before.map(|sequence| cursor(epoch, sequence)),
        start_time: gap.start_time.map(timestamp),
        end_time: gap.end_time.map(timestamp),
        bindings: gap.bindings.iter().map(|binding| binding.to_string()).collect(),
        lost_count: gap.lost_count,
    }
}

fn gap_reason(reason: GapReason) -> proto::GapReason {
    match reason {
        GapReason::UpstreamDisconnected => proto::GapReason::UpstreamDisconnected,
        GapReason::BindingPending => proto::GapReason::BindingPending,
        GapReason::UpstreamLoss => proto::GapReason::UpstreamLoss,
        GapReason::Rotation => proto::GapReason::Rotation,
        GapReason::MonthTurn => proto::GapReason::MonthTurn,
        GapReason::SlowConsumer => proto::GapReason::SlowConsumer,
        GapReason::ReplayWindowExceeded => proto::GapReason::ReplayWindowExceeded,
        GapReason::EpochChanged => proto::GapReason::EpochChanged,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn frames_have_a_prefix() {
        let message = proto::Cursor { epoch: "e".into(), sequence: 300 };
        let frame = frame(&message);
        assert_eq!(frame[..5], [0, 0, 0, 0, (frame.len() - 5) as u8]);
        assert_eq!(proto::Cursor::decode(&frame[5..]).unwrap(), message);
    }

    #[test]
    fn an_open_gap_has_no_end() {
        let open = hub::Gap {
            id: 7,
            reason: GapReason::UpstreamDisconnected,
            after: Sequence(6),
            before: None,
            start_time: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)),
            end_time: None,
            bindings: vec!["call.*.*".into()],
            lost_count: None,
        };
        let message = gap(&open, Epoch(1));
        assert_eq!(message.gap_id, 7);
        assert_eq!(message.reason(), proto::GapReason::UpstreamDisconnected);
        assert_eq!(message.after, Some(proto::Cursor { epoch: "0000000000000001".into(), sequence: 6 }));
        assert_eq!(message.start_time, Some(Timestamp { seconds: 1, nanos: 500_000_000 }));
        assert_eq!((message.before, message.end_time, message.lost_count), (None, None, None));
    }

    #[test]
    fn bindings_are_told_in_the_order_of_the_request() {
        let report = |binding: &str, state| BindingReport {
            binding: binding.into(),
            state,
            upstream_binding: Some("call.*.*".into()),
            proven: None,
        };
        let reports = [
            report("call.A.*", hub::BindingState::Active),
            report("call.B.*", hub::BindingState::Refused("no".into())),
        ];
        let requested = [("b", "call.B.*"), ("a", "call.A.*"), ("b again", "call.B.*")]
            .map(|(requested, canonical)| (requested.to_owned(), canonical.to_owned()));
        let statuses = binding_statuses(&requested, &reports);
        let told: Vec<_> =
            statuses.iter().map(|s| (&*s.requested, &*s.binding, s.state(), &*s.reason)).collect();
        assert_eq!(
            told,
            [
                ("b", "call.B.*", proto::BindingState::Refused, "no"),
                ("a", "call.A.*", proto::BindingState::Active, ""),
                ("b again", "call.B.*", proto::BindingState::Refused, "no"),
            ]
        );
    }
}
