//! # What it is
//! The words between processes: the public gRPC API as Rust types. The `.proto` files beside it are the
//! contract; a changed field number or type is a broken promise.
//!
//! # Flow
//! ```text
//! quorate/v1/*.proto ─► protoc ─► [`v1`]
//! typed details of an error ─► [`RichStatus`] ─► trailer of the answer
//! ```
//!
//! # You must
//! Check lengths of byte fields: protobuf does not.
//!
//! # It promises
//! Field numbers, names and types stay; golden encodings in `tests/` hold them.
//!
//! # It does not
//! Convert, validate or contain logic.
//!
//! # Read next
//! `quorate/v1/ledger.proto`, `quorate/v1/membership.proto`, `quorate/v1/privacy.proto`, `rich_status.rs`.

mod rich_status;

pub use rich_status::{AnyMessage, MEMBERSHIP_FAULT_TYPE, RichStatus};

/// Version 1 of the public API.
#[allow(
    missing_docs,
    clippy::all,
    clippy::large_futures,
    clippy::allow_attributes_without_reason,
    reason = "generated; documented in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("quorate.v1");

    /// The descriptors of this package, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("quorate_v1");
}
