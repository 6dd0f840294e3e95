//! Labels of frames: what was right, sent when somebody knows, and what became of them.

use prost::Message;

use crate::types::strings;
use crate::v1::{self, FeedbackStatus};

/// What a class is called, unless the model says otherwise.
const CLASS: &str = "label";
/// One message has labels of no more frames or bytes, and no more labels; more go in several.
const ITEMS_MAX: usize = 1024;
const BYTES_MAX: usize = 2 << 20;
const LABELS_MAX: usize = 4096;

/// What was right for one frame.
#[derive(Clone, Debug, Default)]
pub struct Feedback {
    /// `Stream::key_of` the frame. It holds for good, whatever becomes of the stream.
    pub stream_key: String,
    pub frame_id: u64,
    /// The right class (`class_number`, `class_name`), or what outputs should have been, by their names.
    pub labels: Vec<v1::Tensor>,
    /// How much it counts; 0: 1, as much as any.
    pub weight: f64,
    /// Where it is from, for who judges labels by that.
    pub source: String,
}

/// What became of the labels of one frame. Those that are `Pending` or `NotKept` are worth sending again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedbackResult {
    pub status: FeedbackStatus,
    /// Why they were not joined, for people.
    pub reason: String,
}

/// The label of a class by its number.
pub fn class_number(number: i64) -> v1::Tensor {
    v1::Tensor {
        name: CLASS.into(),
        datatype: v1::DataType::Int64.into(),
        shape: Vec::new(),
        data: number.to_le_bytes().to_vec().into(),
    }
}

/// The label of a class by its name, which the model lists.
pub fn class_name(name: &str) -> v1::Tensor {
    strings(CLASS, &[name], &[])
}

pub(crate) fn result_of(result: v1::FeedbackResult) -> FeedbackResult {
    // Where it is none that is known here, a newer server has said it.
    let status = match result.status() {
        FeedbackStatus::Unspecified => FeedbackStatus::Pending,
        status => status,
    };
    FeedbackResult { status, reason: result.reason }
}

/// The messages with these labels, in their order.
pub(crate) fn requests(items: impl IntoIterator<Item = Feedback>) -> Vec<v1::FeedbackRequest> {
    let mut requests: Vec<v1::FeedbackRequest> = Vec::new();
    let (mut bytes, mut labels) = (0, 0);
    for item in items {
        let message = v1::FrameFeedback {
            stream_key: item.stream_key,
            frame_id: item.frame_id,
            labels: item.labels,
            weight: item.weight,
            source: item.source,
        };
        let (size, count) = (message.encoded_len(), message.labels.len());
        let full = requests.last().is_none_or(|last| {
            last.items.len() >= ITEMS_MAX || bytes + size > BYTES_MAX || labels + count > LABELS_MAX
        });
        if full {
            requests.push(v1::FeedbackRequest::default());
            (bytes, labels) = (0, 0);
        }
        if let Some(last) = requests.last_mut() {
            last.items.push(message);
        }
        bytes += size;
        labels += count;
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(items: Vec<Feedback>) -> Vec<usize> {
        requests(items).iter().map(|request| request.items.len()).collect()
    }

    #[test]
    fn many_labels_go_in_several_messages_in_their_order() {
        let count = 2 * ITEMS_MAX + 5;
        let many: Vec<Feedback> = (0..count as u64)
            .map(|frame_id| Feedback { frame_id, labels: vec![class_number(1)], ..Feedback::default() })
            .collect();
        assert_eq!(sizes(many.clone()), [ITEMS_MAX, ITEMS_MAX, 5]);
        let ids = requests(many).into_iter().flat_map(|request| request.items).map(|item| item.frame_id);
        assert!(ids.eq(0..count as u64));
        let data = vec![0; BYTES_MAX / 2 - 100].into();
        let large = Feedback { labels: vec![v1::Tensor { data, ..Default::default() }], ..Feedback::default() };
        assert_eq!(sizes(vec![large; 5]), [2, 2, 1]);
        let several = Feedback { labels: vec![class_number(1); LABELS_MAX - 1], ..Feedback::default() };
        assert_eq!(sizes(vec![several; 2]), [1, 1]);
        assert!(sizes(Vec::new()).is_empty());
    }

    #[test]
    fn a_class_is_a_number_or_a_name() {
        assert_eq!(class_number(-2).data[..], (-2_i64).to_le_bytes());
        let name = class_name("dög");
        assert_eq!((name.name.as_str(), name.datatype(), name.shape.len()), ("label", v1::DataType::String, 0));
        assert_eq!(name.data[..], *b"\x04\0\0\0d\xc3\xb6g");
    }

    #[test]
    fn a_status_of_a_newer_server_is_pending() {
        let result = v1::FeedbackResult { status: 99, reason: "later".into() };
        assert_eq!(result_of(result), FeedbackResult { status: FeedbackStatus::Pending, reason: "later".into() });
    }
}
