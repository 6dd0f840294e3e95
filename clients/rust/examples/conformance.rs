//! The program of this client for the conformance suite; see clients/conformance/README.md.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use duly_client::{
    Advice, BacklogPolicy, Client, Clock, ClockEstimate, EncodedFormat, Feedback, FeedbackResult, Frame, GapPolicy,
    Ordering, Outcome, Pace, Settings, Stream, StreamClass, Terms, TrySendError, bfloat16_numbers, bfloat16s,
    class_name, class_number, float32s, numbers, strings, texts, v1,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinHandle;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Deserialize)]
#[serde(default)]
struct Command {
    #[serde(rename = "do")]
    action: String,
    target: String,
    model: String,
    version: String,
    name: String,
    class: String,
    backlog: String,
    backlog_frames: i32,
    ordering: String,
    budget_ms: Option<f64>,
    period_ms: Option<f64>,
    outputs: Vec<String>,
    gap: String,
    variant_lowest: String,
    floor: Option<(i32, i32)>,
    follow_advice: bool,
    token: Option<String>,
    reconnect: bool,
    open_timeout_ms: f64,
    values: Vec<f32>,
    texts: Option<Vec<String>>,
    dtype: String,
    shape: Option<Vec<i64>>,
    format: String,
    data: String,
    input: String,
    must_run: bool,
    captured_ago_ms: f64,
    count: usize,
    items: Vec<Item>,
    ids: Vec<u64>,
    exchanges: Vec<(i64, i64, i64, i64)>,
    now_ns: i64,
    period_ns: i64,
    phase: f64,
    at_ns: Vec<i64>,
}

/// The label of one frame.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Item {
    id: u64,
    key: Option<String>,
    number: Option<i64>,
    name: Option<String>,
    output: String,
    values: Vec<f32>,
    weight: f64,
    source: String,
}

impl Default for Command {
    fn default() -> Self {
        Command {
            reconnect: true,
            open_timeout_ms: 10_000.0,
            count: 1,
            action: String::new(),
            target: String::new(),
            model: String::new(),
            version: String::new(),
            name: String::new(),
            class: String::new(),
            backlog: String::new(),
            backlog_frames: 0,
            ordering: String::new(),
            budget_ms: None,
            period_ms: None,
            outputs: Vec::new(),
            gap: String::new(),
            variant_lowest: String::new(),
            floor: None,
            follow_advice: false,
            token: None,
            values: Vec::new(),
            texts: None,
            dtype: String::new(),
            shape: None,
            format: String::new(),
            data: String::new(),
            input: String::new(),
            must_run: false,
            captured_ago_ms: 0.0,
            items: Vec::new(),
            ids: Vec::new(),
            exchanges: Vec::new(),
            now_ns: 0,
            period_ns: 0,
            phase: 0.0,
            at_ns: Vec::new(),
        }
    }
}

fn say(event: &str, mut what: Value) {
    what["event"] = event.into();
    println!("{what}");
}

fn span(ms: f64) -> Duration {
    Duration::from_nanos((ms * 1e6) as u64)
}

fn bare<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

fn say_clock(estimate: Option<ClockEstimate>) {
    let offset_ns = estimate.map(|each| each.offset_ns);
    say("clock", json!({"offset_ns": offset_ns, "uncertainty_ns": estimate.map(|each| each.uncertainty_ns)}));
}

fn say_advice(advice: Advice) {
    let period_ms = advice.period.as_nanos() as f64 / 1e6;
    let kind = bare(advice.kind.as_str_name(), "KIND_");
    say("advice", json!({"kind": kind, "period_ms": period_ms, "version": advice.version, "reason": advice.reason}));
}

fn say_outcome(outcome: &Outcome) {
    let flat = |tensor: &v1::Tensor| match (numbers(tensor).or(bfloat16_numbers(tensor)), texts(tensor)) {
        (Some(values), _) => json!(values),
        (None, Some(texts)) => json!(texts),
        (None, None) => json!(tensor.data.to_vec()),
    };
    let outputs: serde_json::Map<String, Value> =
        outcome.outputs.iter().map(|(name, tensor)| (name.clone(), flat(tensor))).collect();
    let what = json!({
        "id": outcome.id, "status": bare(outcome.status.as_str_name(), "OUTCOME_STATUS_"), "outputs": outputs,
        "version": outcome.version, "reason": outcome.reason, "latency_ms": outcome.latency.as_nanos() as f64 / 1e6,
        "capture_to_receipt_ms": outcome.timing.capture_to_receipt_nano as f64 / 1e6,
        "clock_uncertainty_ms": outcome.timing.clock_uncertainty_nano as f64 / 1e6, "guards": outcome.guards,
    });
    say("outcome", what);
}

fn say_opened(opened: &v1::StreamOpened) {
    let specs = |of: &[v1::TensorSpec]| -> Vec<Value> {
        of.iter()
            .map(|each| {
                let dtype = bare(each.datatype().as_str_name(), "DATA_TYPE_");
                json!({"name": each.name, "dtype": dtype, "shape": each.shape})
            })
            .collect()
    };
    let what = json!({
        "version": opened.version, "class": bare(opened.stream_class().as_str_name(), "STREAM_CLASS_"),
        "backlog": bare(opened.backlog_policy().as_str_name(), "BACKLOG_POLICY_"),
        "backlog_frames": opened.backlog_frames, "ordering": bare(opened.ordering().as_str_name(), "ORDERING_"),
        "budget_ms": opened.default_budget_nano as f64 / 1e6, "frames_in_flight_max": opened.frames_in_flight_max,
        "inputs": specs(&opened.inputs), "outputs": specs(&opened.outputs),
    });
    say("opened", what);
}

fn frame_of(command: &Command) -> Result<Frame, Failure> {
    let captured = SystemTime::now() - span(command.captured_ago_ms);
    let mut frame = if command.format.is_empty() {
        let count = command.texts.as_ref().map_or(command.values.len(), Vec::len);
        let shape = command.shape.clone().unwrap_or(vec![count as i64]);
        Frame::tensor(match &command.texts {
            Some(texts) => strings(&command.input, texts, &shape),
            None if command.dtype == "BF16" => bfloat16s(&command.input, &command.values, &shape),
            None => float32s(&command.input, &command.values, &shape),
        })
    } else {
        let format = EncodedFormat::from_str_name(&format!("ENCODED_FORMAT_{}", command.format)).ok_or("format")?;
        Frame::encoded(format, base64::engine::general_purpose::STANDARD.decode(&command.data)?)
    };
    frame.captured = Some(captured);
    frame.budget = command.budget_ms.map(span);
    frame.must_run = command.must_run;
    Ok(frame)
}

#[derive(Default)]
struct Program {
    client: Option<Client>,
    stream: Option<Stream>,
    reading: Option<JoinHandle<()>>,
}

impl Program {
    async fn open(&mut self, command: Command) -> Result<(), Failure> {
        let settings = Settings {
            token: command.token,
            reconnect: command.reconnect,
            open_timeout: span(command.open_timeout_ms),
            ..Settings::default()
        };
        let client = Client::with(&command.target, settings)?;
        let terms = Terms {
            model: command.model,
            version: command.version,
            name: command.name,
            class: StreamClass::from_str_name(&format!("STREAM_CLASS_{}", command.class)).unwrap_or_default(),
            backlog: BacklogPolicy::from_str_name(&format!("BACKLOG_POLICY_{}", command.backlog)).unwrap_or_default(),
            backlog_frames: command.backlog_frames,
            ordering: Ordering::from_str_name(&format!("ORDERING_{}", command.ordering)).unwrap_or_default(),
            budget: command.budget_ms.map(span),
            period: command.period_ms.map(span),
            outputs: command.outputs,
            gap: GapPolicy::from_str_name(&format!("GAP_POLICY_{}", command.gap)).unwrap_or_default(),
            variant_lowest: command.variant_lowest,
            floor: command.floor,
            follow_advice: command.follow_advice,
            on_advice: Some(Arc::new(say_advice)),
        };
        let stream = match client.open(terms).await {
            Ok(stream) => stream,
            Err(error) => {
                let what = json!({"reason": error.reason, "message": error.message, "metadata": error.metadata});
                say("refused", what);
                return Ok(());
            }
        };
        self.client = Some(client);
        say_opened(&stream.opened());
        let reader = stream.clone();
        self.stream = Some(stream);
        self.reading = Some(tokio::spawn(async move {
            loop {
                match reader.next().await {
                    Ok(Some(outcome)) => say_outcome(&outcome),
                    Ok(None) => return say("ended", json!({"reason": "", "message": ""})),
                    Err(error) => return say("ended", json!({"reason": error.reason, "message": error.message})),
                }
            }
        }));
        Ok(())
    }

    async fn feedback(&self, items: Vec<Item>) -> Result<(), Failure> {
        let client = self.client.as_ref().ok_or("there is no client")?;
        let stream = self.stream.as_ref().ok_or("no stream is open")?;
        let items = items.into_iter().map(|item| Feedback {
            stream_key: item.key.unwrap_or_else(|| stream.key_of(item.id)),
            frame_id: item.id,
            labels: vec![match (item.number, item.name) {
                (Some(number), _) => class_number(number),
                (None, Some(name)) => class_name(&name),
                (None, None) => float32s(&item.output, &item.values, &[item.values.len() as i64]),
            }],
            weight: item.weight,
            source: item.source,
        });
        let (reason, results) = match client.feedback(items).await {
            Ok(results) => (String::new(), results),
            Err(error) => (error.reason, Vec::new()),
        };
        let name = |result: &FeedbackResult| bare(result.status.as_str_name(), "FEEDBACK_STATUS_").to_owned();
        let statuses: Vec<String> = results.iter().map(name).collect();
        let reasons: Vec<String> = results.into_iter().map(|result| result.reason).collect();
        say("labelled", json!({"reason": reason, "statuses": statuses, "reasons": reasons}));
        Ok(())
    }

    async fn act(&mut self, command: Command) -> Result<(), Failure> {
        match command.action.as_str() {
            "open" => return self.open(command).await,
            "clock_of" => {
                let mut clock = Clock::default();
                for (sent, received_there, sent_there, received) in command.exchanges {
                    clock.add(sent, received_there, sent_there, received);
                }
                say_clock(clock.estimate(command.now_ns));
                return Ok(());
            }
            "pace_of" => {
                let mut pace = Pace::default();
                pace.advised(0, command.period_ns, command.phase);
                let mut due = Vec::new();
                for at_ns in command.at_ns {
                    due.push(pace.due(at_ns));
                    if pace.due(at_ns) {
                        pace.sent(at_ns);
                    }
                }
                say("pace", json!({"due": due}));
                return Ok(());
            }
            _ => {}
        }
        let stream = self.stream.as_ref().ok_or("no stream is open")?;
        match command.action.as_str() {
            "send" => {
                let mut ids = Vec::new();
                for _ in 0..command.count {
                    ids.push(stream.send(frame_of(&command)?).await?);
                }
                say("sent", json!({"ids": ids}));
            }
            "try_send" => {
                let (mut ids, mut full) = (Vec::new(), 0);
                for _ in 0..command.count {
                    match stream.try_send(frame_of(&command)?) {
                        Ok(id) => ids.push(id),
                        Err(TrySendError::Full(_)) => full += 1,
                        Err(error) => return Err(error.into()),
                    }
                }
                say("tried", json!({"ids": ids, "full": full}));
            }
            "cancel" => stream.cancel(&command.ids),
            "feedback" => self.feedback(command.items).await?,
            "clock" => say_clock(stream.clock()),
            "finish" => stream.finish(),
            "close" => stream.close(),
            other => return Err(format!("unknown command {other:?}").into()),
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut program = Program::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        if let Err(error) = program.act(serde_json::from_str(&line)?).await {
            say("error", json!({"message": error.to_string()}));
        }
    }
    if let Some(stream) = program.stream.take() {
        stream.close();
    }
    if let Some(reading) = program.reading.take() {
        reading.await?;
    }
    Ok(())
}
