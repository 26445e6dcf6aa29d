//! The envelope of typed error details that gRPC libraries know (`google.rpc.Status` with `google.protobuf.Any`): it travels
//! in the trailer `grpc-status-details-bin`. Field numbers are those of the public definitions.

/// What a failed call says, for programs.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct RichStatus {
    /// The gRPC status code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// The same text as the status has.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Messages that say more.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<AnyMessage>,
}

/// A message together with its type.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct AnyMessage {
    /// `type.googleapis.com/` and the full name of the message.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: prost::bytes::Bytes,
}

/// The type of [`crate::v1::MembershipFault`] in an [`AnyMessage`].
pub const MEMBERSHIP_FAULT_TYPE: &str = "type.googleapis.com/quorate.v1.MembershipFault";
