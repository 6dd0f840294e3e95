//! What the application gives and gets.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::v1;

type OnAdvice = Arc<dyn Fn(Advice) + Send + Sync>;

/// What the client wants of a stream. Only `model` is needed; the rest is the model's default.
#[derive(Clone, Default)]
pub struct Terms {
    /// Name of the model.
    pub model: String,
    /// A number; empty: the active version and its successors.
    pub version: String,
    /// Name for the server's logs.
    pub name: String,
    /// Criticality.
    pub class: v1::StreamClass,
    /// What waits while the model is busy.
    pub backlog: v1::BacklogPolicy,
    /// How many frames wait with `KeepLast`.
    pub backlog_frames: i32,
    /// Order of outcomes.
    pub ordering: v1::Ordering,
    /// How long after its capture the result of a frame is worth having.
    pub budget: Option<Duration>,
    /// Time between frames; a stream that states it is let in only if it fits.
    pub period: Option<Duration>,
    /// Names of the outputs wanted; empty: all.
    pub outputs: Vec<String>,
    /// What a stateful model does after a frame that was not run.
    pub gap: v1::GapPolicy,
    /// The least accurate variant that will do; empty: any.
    pub variant_lowest: String,
    /// (m, k): of any k consecutive frames m shall be on time.
    pub floor: Option<(i32, i32)>,
    /// Frames that come faster than the server advises are `Superseded` here and not sent, unless they must run.
    pub follow_advice: bool,
    /// Called with each advice of the server. It must not block.
    pub on_advice: Option<OnAdvice>,
}

impl fmt::Debug for Terms {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Terms").field(&self.request()).finish()
    }
}

impl Terms {
    pub(crate) fn request(&self) -> v1::OpenStream {
        v1::OpenStream {
            model: self.model.clone(),
            version: self.version.clone(),
            stream_name: self.name.clone(),
            stream_class: self.class.into(),
            backlog_policy: self.backlog.into(),
            backlog_frames: self.backlog_frames,
            ordering: self.ordering.into(),
            default_budget_nano: nanos(self.budget),
            expected_period_nano: nanos(self.period),
            outputs: self.outputs.clone(),
            gap_policy: self.gap.into(),
            variant_lowest: self.variant_lowest.clone(),
            floor: self.floor.map(|(frames, window)| v1::OnTimeFloor { frames, window }),
            ..Default::default()
        }
    }
}

fn nanos(duration: Option<Duration>) -> i64 {
    duration.map_or(0, |duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

/// One sample from a sensor.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// Inputs as arrays.
    pub tensors: Vec<v1::Tensor>,
    /// Inputs as encoded bytes, which the server decodes.
    pub encoded: Vec<v1::Encoded>,
    /// By the wall clock; None: when it is sent.
    pub captured: Option<SystemTime>,
    /// Counts from capture; None: the stream's.
    pub budget: Option<Duration>,
    /// Newer frames never supersede it.
    pub must_run: bool,
}

/// At least what the fields of a frame take beside the bytes of its inputs.
const FRAME_FIELDS_BYTES: usize = 64;

impl Frame {
    /// A frame of one array.
    pub fn tensor(tensor: v1::Tensor) -> Self {
        Frame { tensors: vec![tensor], ..Frame::default() }
    }

    /// A frame of one JPEG picture, for a model with one input.
    pub fn jpeg(data: impl Into<Bytes>) -> Self {
        Frame::encoded(v1::EncodedFormat::Jpeg, data)
    }

    /// A frame of one PNG picture, for a model with one input.
    pub fn png(data: impl Into<Bytes>) -> Self {
        Frame::encoded(v1::EncodedFormat::Png, data)
    }

    /// A frame of one encoded payload, for a model with one input.
    pub fn encoded(format: v1::EncodedFormat, data: impl Into<Bytes>) -> Self {
        let encoded = v1::Encoded { name: String::new(), format: format.into(), data: data.into() };
        Frame { encoded: vec![encoded], ..Frame::default() }
    }

    pub(crate) fn size(&self) -> usize {
        let tensors = self.tensors.iter().map(|each| each.data.len() + each.name.len() + 10 * each.shape.len() + 24);
        let encoded = self.encoded.iter().map(|each| each.data.len() + each.name.len() + 24);
        FRAME_FIELDS_BYTES + tensors.sum::<usize>() + encoded.sum::<usize>()
    }

    /// Capture time by the wall clock, ns since 1970.
    pub(crate) fn captured_ns(&self) -> Option<i64> {
        let since = self.captured?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    pub(crate) fn message(self, frame_id: u64, captured_ns: i64) -> v1::Frame {
        v1::Frame {
            frame_id,
            capture_time_unix_nano: captured_ns,
            budget_nano: nanos(self.budget),
            must_run: self.must_run,
            tensors: self.tensors,
            encoded: self.encoded,
        }
    }
}

/// Makes an FP32 tensor. `shape` has no batch dimension. `name` may be empty where the model has one input.
pub fn float32s(name: &str, values: &[f32], shape: &[i64]) -> v1::Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    v1::Tensor { name: name.into(), datatype: v1::DataType::Fp32.into(), shape: shape.to_vec(), data: data.into() }
}

/// The elements of an FP32 tensor; None where it has another type, or its bytes do not fill elements.
pub fn numbers(tensor: &v1::Tensor) -> Option<Vec<f32>> {
    if tensor.datatype() != v1::DataType::Fp32 {
        return None;
    }
    let (elements, rest) = tensor.data.as_chunks::<4>();
    rest.is_empty().then(|| elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Makes a STRING tensor. `shape` and `name` are as for [`float32s`].
pub fn strings<T: AsRef<str>>(name: &str, values: &[T], shape: &[i64]) -> v1::Tensor {
    let mut data = Vec::with_capacity(values.iter().map(|value| 4 + value.as_ref().len()).sum());
    for value in values {
        let bytes = value.as_ref().as_bytes();
        data.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        data.extend_from_slice(bytes);
    }
    v1::Tensor { name: name.into(), datatype: v1::DataType::String.into(), shape: shape.to_vec(), data: data.into() }
}

/// The elements of a STRING tensor; None where it has another type, or its bytes are no elements or no UTF-8.
pub fn texts(tensor: &v1::Tensor) -> Option<Vec<&str>> {
    if tensor.datatype() != v1::DataType::String {
        return None;
    }
    let (mut found, mut rest) = (Vec::new(), &tensor.data[..]);
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let (text, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        found.push(std::str::from_utf8(text).ok()?);
        rest = behind;
    }
    Some(found)
}

/// Makes a BF16 tensor, for which the values are rounded to the nearest, half to even. `shape` and `name` are as for
/// [`float32s`].
pub fn bfloat16s(name: &str, values: &[f32], shape: &[i64]) -> v1::Tensor {
    let half = |value: &f32| {
        let bits = value.to_bits();
        // To round a NaN could make an infinity of it.
        let upper = if value.is_nan() { bits >> 16 | 0x40 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 };
        (upper as u16).to_le_bytes()
    };
    let data: Vec<u8> = values.iter().flat_map(half).collect();
    v1::Tensor { name: name.into(), datatype: v1::DataType::Bf16.into(), shape: shape.to_vec(), data: data.into() }
}

/// The elements of a BF16 tensor; None where it has another type, or its bytes do not fill elements.
pub fn bfloat16_numbers(tensor: &v1::Tensor) -> Option<Vec<f32>> {
    if tensor.datatype() != v1::DataType::Bf16 {
        return None;
    }
    let (elements, rest) = tensor.data.as_chunks::<2>();
    let wide = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    rest.is_empty().then(|| elements.iter().map(wide).collect())
}

/// The one answer to a frame.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Id of the frame.
    pub id: u64,
    /// How it ended.
    pub status: v1::OutcomeStatus,
    /// From capture to the arrival of the outcome, on the client's clock.
    pub latency: Duration,
    /// By name; only with `OnTime` and `Late`.
    pub outputs: HashMap<String, v1::Tensor>,
    /// Version that ran on the frame; empty: none did.
    pub version: String,
    /// Variant that ran on the frame; empty: none did.
    pub variant: String,
    /// Number of frames in the batch that the frame ran in; 0: it did not run.
    pub batch_size: i32,
    /// Deadline minus the time at which the server sent the outcome, ns; negative: too late.
    pub slack_ns: i64,
    /// Why there is no result in time, for people.
    pub reason: String,
    /// Times on the server.
    pub timing: v1::Timing,
    /// Names of the model's guards that found something on the frame, with a result and with `Invalid`.
    pub guards: Vec<String>,
}

impl Outcome {
    /// Whether there is a result: `OnTime` or `Late`.
    pub fn is_ok(&self) -> bool {
        matches!(self.status, v1::OutcomeStatus::OnTime | v1::OutcomeStatus::Late)
    }

    /// An outcome that this side gives.
    pub(crate) fn here(id: u64, status: v1::OutcomeStatus, latency_ns: i64, reason: String) -> Self {
        let message = v1::Outcome { frame_id: id, status: status.into(), reason, ..Default::default() };
        Outcome::of(message, latency_ns)
    }

    /// A status that this client does not know becomes `Failed`.
    pub(crate) fn of(message: v1::Outcome, latency_ns: i64) -> Self {
        Outcome {
            id: message.frame_id,
            status: v1::OutcomeStatus::try_from(message.status).unwrap_or(v1::OutcomeStatus::Failed),
            latency: Duration::from_nanos(u64::try_from(latency_ns).unwrap_or(0)),
            outputs: message.outputs.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect(),
            version: message.version,
            variant: message.variant,
            batch_size: message.batch_size,
            slack_ns: message.slack_nano,
            reason: message.reason,
            timing: message.timing.unwrap_or_default(),
            guards: message.guards,
        }
    }
}

/// Something that the client should act on.
#[derive(Clone, Debug)]
pub struct Advice {
    /// What it is about.
    pub kind: v1::stream_advice::Kind,
    /// `SlowDown` and `SpeedUp`: the shortest period, on average, that can be served; zero: any.
    pub period: Duration,
    /// Version that serves the stream; after `VersionChanged` the new one.
    pub version: String,
    /// Why, for people.
    pub reason: String,
}

impl Advice {
    pub(crate) fn of(message: v1::StreamAdvice) -> Self {
        Advice {
            kind: message.kind(),
            period: Duration::from_nanos(u64::try_from(message.period_nano).unwrap_or(0)),
            version: message.version,
            reason: message.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(data: &[u8]) -> v1::Tensor {
        v1::Tensor { datatype: v1::DataType::String.into(), data: data.to_vec().into(), ..Default::default() }
    }

    #[test]
    fn text_comes_back_as_it_was() {
        let values = ["", "zwölf", "a\0b"];
        let sent = strings("x", &values, &[3]);
        assert_eq!(&sent.data[..8], b"\0\0\0\0\x06\0\0\0");
        assert_eq!(texts(&sent), Some(values.to_vec()));
        assert_eq!(texts(&tensor(b"")), Some(vec![]));
        assert_eq!(texts(&float32s("x", &[], &[0])), None);
    }

    #[test]
    fn text_that_lies_is_none() {
        for data in [&b"\x01"[..], b"\x05\0\0\0ab", b"\xff\xff\xff\xff", b"\x01\0\0\0\xff", b"\0\0\0\0\x01"] {
            assert_eq!(texts(&tensor(data)), None, "{data:?}");
        }
    }

    #[test]
    fn bfloat16_is_rounded_to_the_nearest_even() {
        let given = [1.0, -2.5, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::INFINITY, f32::from_bits(0x7f80_0001)];
        let back = bfloat16_numbers(&bfloat16s("x", &given, &[6])).unwrap();
        assert_eq!(back[..5], [1.0, -2.5, 1.0, 1.0 + 4.0 / 256.0, f32::INFINITY]);
        assert!(back[5].is_nan());
    }
}
