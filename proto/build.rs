//! Generates the gRPC code. Needs `protoc` (Debian package `protobuf-compiler`), on the PATH or named by `PROTOC`.

fn main() -> std::io::Result<()> {
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    tonic_prost_build::configure()
        .bytes(".")
        .file_descriptor_set_path(out.join("quorate_v1.bin"))
        .compile_protos(
            &[
                "quorate/v1/ledger.proto",
                "quorate/v1/log.proto",
                "quorate/v1/membership.proto",
                "quorate/v1/privacy.proto",
            ],
            &["."],
        )
}
