//! One connection to a server, any number of streams over it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::error::Error;
use crate::feedback::{Feedback, FeedbackResult, requests, result_of};
use crate::stream::Stream;
use crate::types::Terms;
use crate::v1::inference_service_client::InferenceServiceClient;

/// A call that is answered later has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How a client works.
#[derive(Clone)]
pub struct Settings {
    /// The bearer token that each call shows.
    pub token: Option<String>,
    /// A file whose token each call shows; it is read at each.
    pub token_file: Option<PathBuf>,
    /// Lets a token cross a network without TLS.
    pub token_in_clear_text: bool,
    /// Streams open again when their connection is lost; false: nothing is tried again, at first either.
    pub reconnect: bool,
    /// How long a stream may take to open. What may pass meanwhile is tried again until then.
    pub open_timeout: Duration,
    /// How to speak TLS; None: plain text.
    #[cfg(feature = "tls")]
    pub tls: Option<tonic::transport::ClientTlsConfig>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Settings").field("reconnect", &self.reconnect).finish_non_exhaustive() // no secrets
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            token: None,
            token_file: None,
            token_in_clear_text: false,
            reconnect: true,
            open_timeout: Duration::from_secs(10),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// A client of one server. It connects at its first call.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) target: String,
    pub(crate) settings: Settings,
    pub(crate) channel: Channel,
}

impl Client {
    /// A client of the server at `target`, `HOST:PORT` or `unix:PATH`. It has to be made within a Tokio runtime.
    pub fn new(target: &str) -> Result<Self, Error> {
        Client::with(target, Settings::default())
    }

    /// The same, with settings.
    pub fn with(target: &str, settings: Settings) -> Result<Self, Error> {
        let invalid = |message: String| Error::new(Code::InvalidArgument, message);
        #[cfg(feature = "tls")]
        let tls = settings.tls.clone();
        #[cfg(feature = "tls")]
        let encrypted = tls.is_some();
        #[cfg(not(feature = "tls"))]
        let encrypted = false;
        let shows_token = settings.token.is_some() || settings.token_file.is_some();
        if shows_token && !encrypted && !settings.token_in_clear_text && !is_local(target) {
            return Err(invalid(format!("the token would go to {target} in clear text: state tls")));
        }
        let url = match (target.starts_with("unix:"), encrypted) {
            (true, _) => target.to_owned(),
            (false, true) => format!("https://{target}"),
            (false, false) => format!("http://{target}"),
        };
        let endpoint = Endpoint::from_shared(url)
            .map_err(|error| invalid(format!("target {target:?}: expected HOST:PORT or unix:PATH: {error}")))?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .tcp_nodelay(true);
        #[cfg(feature = "tls")]
        let endpoint = match tls {
            Some(tls) => endpoint.tls_config(tls).map_err(|error| invalid(format!("tls: {error}")))?,
            None => endpoint,
        };
        Ok(Client { target: target.to_owned(), settings, channel: endpoint.connect_lazy() })
    }

    /// The connection, for calls of the other services of `v1`.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Opens a stream of frames.
    pub async fn open(&self, terms: Terms) -> Result<Stream, Error> {
        Stream::open(self.clone(), terms).await
    }

    /// Says what was right for frames that were answered, whenever that is known: the server joins it with what it keeps
    /// of them. Returns what became of each, in their order. Many go in several messages; sending one again is safe, as
    /// the newest label of a frame counts.
    pub async fn feedback(&self, items: impl IntoIterator<Item = Feedback>) -> Result<Vec<FeedbackResult>, Error> {
        let failed = |status: tonic::Status| Error::from_status(&status, &self.target);
        let mut calls = InferenceServiceClient::new(self.channel()).max_decoding_message_size(usize::MAX);
        let mut results = Vec::new();
        for message in requests(items) {
            let mut request = with_token(message, self.token().await?)?;
            request.set_timeout(CALL_TIMEOUT);
            results
                .extend(calls.feedback(request).await.map_err(failed)?.into_inner().results.into_iter().map(result_of));
        }
        Ok(results)
    }

    pub(crate) async fn token(&self) -> Result<Option<String>, Error> {
        let Some(path) = self.settings.token_file.clone() else {
            return Ok(self.settings.token.clone());
        };
        let text = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
        match text {
            Ok(Ok(text)) => Ok(Some(text.trim().to_owned())),
            _ => Err(Error::new(Code::Unauthenticated, "the token's file cannot be read")),
        }
    }
}

/// A request that shows the token.
pub(crate) fn with_token<T>(message: T, token: Option<String>) -> Result<Request<T>, Error> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Error::new(Code::Unauthenticated, "the token has characters that no token has"))?;
        request.metadata_mut().insert("authorization", value);
    }
    Ok(request)
}

/// Whether what is sent to `target` stays on this machine.
fn is_local(target: &str) -> bool {
    if target.starts_with("unix:") {
        return true;
    }
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_does_not_leave_the_machine_in_clear_text() {
        let settings = Settings { token: Some("secret".into()), ..Settings::default() };
        let refused = Client::with("robot.local:8500", settings.clone()).unwrap_err();
        assert!(refused.message.contains("clear text"), "{refused}");
        assert!(!format!("{settings:?}").contains("secret"));
        for target in ["127.0.0.1:8500", "[::1]:8500", "localhost:8500"] {
            assert!(Client::with(target, settings.clone()).is_ok(), "{target}");
        }
        assert!(Client::with("robot.local:8500", Settings { token_in_clear_text: true, ..settings }).is_ok());
    }
}
