//! Streams a JPEG thirty times a second for a second and says what became of each frame:
//!
//! ```sh
//! cargo run --example picture 127.0.0.1:8500 yolo street.jpg
//! ```

use std::time::Duration;

use bytes::Bytes;
use duly_client::{Client, Frame, Terms};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, model, file] = arguments.as_slice() else {
        return Err("usage: picture HOST:PORT MODEL FILE.jpg".into());
    };
    let picture = Bytes::from(std::fs::read(file)?);
    let client = Client::new(target)?;
    let budget = Some(Duration::from_millis(250));
    let stream = client.open(Terms { model: model.clone(), name: "camera".into(), budget, ..Terms::default() }).await?;
    let sender = stream.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..30 {
            sender.send(Frame::jpeg(picture.clone())).await?;
            tokio::time::sleep(Duration::from_secs(1) / 30).await;
        }
        sender.finish();
        Ok::<(), duly_client::Error>(())
    });
    while let Some(outcome) = stream.next().await? {
        println!("frame {}: {:?} after {:?} {}", outcome.id, outcome.status, outcome.latency, outcome.reason);
        for (name, output) in &outcome.outputs {
            println!("  {name} {:?}", output.shape);
        }
    }
    sending.await??;
    Ok(())
}
