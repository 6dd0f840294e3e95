//! What ends a stream or refuses it. What goes wrong with one frame is no error but its outcome.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::types::Frame;

/// Why a stream could not be opened, or has ended.
#[derive(Clone, Debug)]
pub struct Error {
    /// The server's stable name, such as `MODEL_NOT_FOUND`; empty where it gave none.
    pub reason: String,
    /// For people.
    pub message: String,
    /// That of gRPC.
    pub code: Code,
    /// More; where admission refused a stream what would fit, such as `period_nano`.
    pub metadata: BTreeMap<String, String>,
    /// What was wrong with the terms, where that is one field.
    pub fields: Vec<String>,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Error { reason: String::new(), message: message.into(), code, metadata: BTreeMap::new(), fields: Vec::new() }
    }

    /// The stream was finished or closed by this side.
    pub(crate) fn finished() -> Self {
        Error::new(Code::FailedPrecondition, "the stream takes no more frames: it is finished or closed")
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Error::new(Code::Internal, message)
    }

    /// Whether the same stream may open a little later, or the same call succeed.
    pub fn is_recoverable(&self) -> bool {
        match self.reason.as_str() {
            "MODEL_NOT_READY"
            | "ADMISSION_REFUSED"
            | "ADMISSION_BUSY"
            | "STREAMS_EXHAUSTED"
            | "CALLS_EXHAUSTED"
            | "DRAINING"
            | "DUMP_FAILED"
            | "FEEDBACK_UNAVAILABLE" => true,
            "" => matches!(
                self.code,
                Code::Unavailable
                    | Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::FailedPrecondition
                    | Code::ResourceExhausted
            ),
            _ => false,
        }
    }

    /// Whether it is worth while to try again while a stream opens for the first time: a refusal by admission says what
    /// would fit, which is for the application to decide on.
    pub(crate) fn passes(&self) -> bool {
        self.is_recoverable() && self.reason != "ADMISSION_REFUSED"
    }

    pub(crate) fn from_status(status: &Status, target: &str) -> Self {
        let details = status.get_error_details();
        let (reason, metadata) = details
            .error_info()
            .map(|info| (info.reason.clone(), info.metadata.clone().into_iter().collect()))
            .unwrap_or_default();
        let fields = details
            .bad_request()
            .map(|request| request.field_violations.iter().map(|violation| violation.field.clone()).collect())
            .unwrap_or_default();
        // What has a source was not said by the server: the connection broke, under one code or another.
        let code = if status.source().is_some() { Code::Unavailable } else { status.code() };
        let mut message = status.message().to_owned();
        if reason.is_empty() && matches!(code, Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded) {
            let mut cause = status.source();
            while let Some(error) = cause {
                let text = error.to_string();
                if !message.contains(&text) {
                    message = format!("{message}: {text}");
                }
                cause = error.source();
            }
            message = format!("no answer from {target}: {message}");
        } else if code == Code::Unimplemented {
            message = format!("{target} is no duly server, or an older one: {message}");
        }
        Error { reason, message, code, metadata, fields }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Why `try_send` did not take a frame.
#[derive(Debug)]
pub enum TrySendError {
    /// It would have to wait. The frame is given back.
    Full(Frame),
    /// The stream has ended.
    Ended(Error),
}

impl fmt::Display for TrySendError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrySendError::Full(_) => formatter.write_str("no room for another frame now"),
            TrySendError::Ended(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for TrySendError {}
