//! Writes `src/v1/duly.v1.rs` from the protocol, without protoc: `make protos-rust`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = here.join("../../../protos");
    let files = ["tensor", "inference", "model", "server"].map(|name| protos.join(format!("duly/v1/{name}.proto")));
    let descriptors = protox::compile(&files, [&protos])?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".") // payloads are not copied
        .out_dir(here.join("../src/v1"))
        .compile_fds(descriptors)?;
    Ok(())
}
