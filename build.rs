//! Compiles `proto/` without `protoc`: once as messages and client, once as the server whose stream sends frames that
//! are already encoded. Owns code generation; knows nothing of what the messages mean.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// The Rust type that stands for these messages on the server: bytes encoded once and shared by all streams.
const ENCODED: [&str; 4] = [
    "SubscribeEventsResponse",
    "ListEventsResponse",
    "GetEventResponse",
    "AwaitEventResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[allow(
        clippy::disallowed_methods,
        reason = "this is how cargo speaks to a build script"
    )]
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(
        [
            "hookstream/v1/access_service.proto",
            "hookstream/v1/hookstream_service.proto",
        ],
        ["proto"],
    )?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let client = out.join("client");
    fs::create_dir_all(&client)?;
    let mut config = prost_build::Config::new();
    config
        .enable_type_names()
        .bytes([".hookstream.v1.Event.raw_body"]);
    tonic_prost_build::configure()
        .build_server(false)
        .out_dir(&client)
        .compile_fds_with_config(descriptors.clone(), config)?;

    let server = out.join("server");
    fs::create_dir_all(&server)?;
    let mut builder = tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::grpc::codec::BurstCodec")
        .extern_path(".hookstream.v1", "crate::grpc::proto")
        .out_dir(&server);
    for message in ENCODED {
        builder = builder.extern_path(
            format!(".hookstream.v1.{message}"),
            "crate::grpc::encoded::Encoded",
        );
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
