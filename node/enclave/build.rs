//! Generates the gRPC code of the remote enclave. Needs `protoc` (Debian package `protobuf-compiler`), on the PATH or
//! named by `PROTOC`.

fn main() -> std::io::Result<()> {
    let root = "../../proto";
    tonic_prost_build::configure()
        .bytes(".")
        .compile_protos(&["../../proto/quorate/enclave/v1/enclave.proto"], &[root])
}
