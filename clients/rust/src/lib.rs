//! A client of duly, a streaming inference server for real-time systems: frames go in, each with a deadline, and exactly
//! one outcome for each frame comes out.
//!
//! ```no_run
//! # async fn example(picture: Vec<u8>) -> Result<(), duly_client::Error> {
//! use duly_client::{Client, Frame, Terms};
//! use std::time::Duration;
//!
//! let client = Client::new("127.0.0.1:8500")?;
//! let budget = Some(Duration::from_millis(100));
//! let stream = client.open(Terms { model: "yolo".into(), budget, ..Terms::default() }).await?;
//! let id = stream.send(Frame::jpeg(picture)).await?;
//! let outcome = stream.next().await?.expect("the stream is not finished");
//! assert_eq!(outcome.id, id);
//! # Ok(())
//! # }
//! ```
//!
//! A stream opens again by itself when its connection is lost. No frame is sent twice: those that were in flight then are
//! `Cancelled`. What may be unanswered and unread is bounded. Streams need a Tokio runtime with time and I/O enabled.

mod client;
mod clock;
mod connection;
mod error;
mod feedback;
mod frames;
mod pace;
mod stream;
mod types;
mod wall_clock;

/// The messages of the protocol, made from `protos/duly/v1`.
#[allow(clippy::all, rustdoc::all)]
pub mod v1 {
    include!("v1/duly.v1.rs");
}

pub use client::{Client, Settings};
pub use clock::{Clock, ClockEstimate};
pub use error::{Error, TrySendError};
pub use feedback::{Feedback, FeedbackResult, class_name, class_number};
pub use pace::Pace;
pub use stream::Stream;
pub use types::{Advice, Frame, Outcome, Terms, bfloat16_numbers, bfloat16s, float32s, numbers, strings, texts};
pub use v1::{
    BacklogPolicy, DataType, EncodedFormat, FeedbackStatus, GapPolicy, Ordering, OutcomeStatus, StreamClass,
    stream_advice::Kind,
};
