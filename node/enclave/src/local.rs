//! The enclave inside the node's own process.

use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::RwLock;

use crate::interface::{Context, Enclave, Health, Opened, Opening, SealRequest, Sealed};
use crate::suite::SharedBoxes;
use crate::tag::{self, SharedSecrets};
use crate::{
    EnclaveError, Envelope, KeyAnnouncement, KeyRing, RecogniseRequest, Recognised, Refusal, Suite,
    TAG_BYTES, TagRequest, suite,
};

/// Payloads above this size are worked on by a thread that may block: a few milliseconds of cipher otherwise hold up a thread
/// that serves many.
const INLINE_BYTES_MAX: usize = 256 * 1024;

/// Keys in this process. Cheap to clone. The `…_now` methods do the same as the interface without being asynchronous, for
/// callers that have a thread of their own.
#[derive(Debug, Clone)]
pub struct LocalEnclave {
    keys: Arc<RwLock<Arc<Keys>>>,
}

/// Keys, and what was computed from them: exchanged together, so that nothing outlives a key that was taken away.
#[derive(Debug)]
struct Keys {
    ring: KeyRing,
    secrets: SharedSecrets,
    boxes: SharedBoxes,
}

impl Keys {
    fn new(ring: KeyRing) -> Arc<Self> {
        Arc::new(Self {
            ring,
            secrets: SharedSecrets::default(),
            boxes: SharedBoxes::default(),
        })
    }
}

impl LocalEnclave {
    /// An enclave with these keys.
    pub fn new(keys: KeyRing) -> Self {
        Self {
            keys: Arc::new(RwLock::new(Keys::new(keys))),
        }
    }

    /// Exchanges the keys, after a rotation. Calls under way end with the old ones, which are wiped after the last of them.
    pub fn replace_keys(&self, keys: KeyRing) {
        *self.keys.write() = Keys::new(keys);
    }

    /// As [`Enclave::public_keys`].
    pub fn public_keys_now(&self) -> Vec<KeyAnnouncement> {
        self.held().ring.announcements()
    }

    /// As [`Enclave::seal`].
    ///
    /// # Errors
    /// As there.
    pub fn seal_now(&self, request: &SealRequest) -> Result<Sealed, EnclaveError> {
        let held = self.held();
        let sender = held.ring.sender(request.sender.as_ref());
        let sender = sender.ok_or(match request.sender {
            Some(key) => Refusal::UnknownSender { key },
            None => Refusal::NoKeys,
        })?;
        Ok(Sealed::new(suite::seal(request, sender, &held.boxes)?))
    }

    /// As [`Enclave::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open_now(
        &self,
        envelope: &Envelope,
        context: &Context,
    ) -> Result<Opening, EnclaveError> {
        check_context(envelope, context)?;
        let held = self.held();
        for identity in held.ring.every() {
            if let Some(wrapped) = envelope.box_of(&identity.public()) {
                let key = suite::unwrap(envelope, identity, &held.boxes, wrapped)?;
                return Ok(Opening::Opened(Opened {
                    payload: suite::open_content(envelope, &key, identity)?,
                    as_recipient: identity.public(),
                    sender: envelope.sender(),
                }));
            }
        }
        Ok(Opening::NotForUs)
    }

    /// As [`Enclave::reseal`].
    ///
    /// # Errors
    /// As there.
    pub fn reseal_now(
        &self,
        mut envelope: Envelope,
        context: &Context,
        recipients: &[KeyAnnouncement],
    ) -> Result<Envelope, EnclaveError> {
        check_context(&envelope, context)?;
        if recipients.is_empty() {
            return Err(Refusal::NoRecipients.into());
        }
        let held = self.held();
        // The sender's own key first: its boxes need no nonce of their own.
        let sender = envelope.sender();
        let identity = held
            .ring
            .every()
            .filter(|identity| envelope.box_of(&identity.public()).is_some())
            .max_by_key(|identity| identity.public() == sender)
            .ok_or(Refusal::NotAParty)?;
        let Some(wrapped) = envelope.box_of(&identity.public()) else {
            return Err(Refusal::NotAParty.into());
        };
        let key = suite::unwrap(&envelope, identity, &held.boxes, wrapped)?;
        // Opened as well, so that nothing is passed on which the new recipient could not open.
        suite::open_content(&envelope, &key, identity)?;
        suite::reseal(&mut envelope, &key, (identity, &held.boxes), recipients)?;
        Ok(envelope)
    }

    /// As [`Enclave::tags`].
    ///
    /// # Errors
    /// As there.
    pub fn tags_now(&self, request: &TagRequest) -> Result<Vec<[u8; TAG_BYTES]>, EnclaveError> {
        let held = self.held();
        Ok(tag::tags(&held.ring, &held.secrets, request)?)
    }

    /// As [`Enclave::recognise`].
    ///
    /// # Errors
    /// As there.
    pub fn recognise_now(
        &self,
        request: &RecogniseRequest,
    ) -> Result<Option<Recognised>, EnclaveError> {
        let held = self.held();
        Ok(tag::recognise(&held.ring, &held.secrets, request)?)
    }

    /// As [`Enclave::health`].
    pub fn health_now(&self) -> Health {
        Health {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            keys: u32::try_from(self.held().ring.len()).unwrap_or(u32::MAX),
            suites: Suite::ALL.to_vec(),
        }
    }

    fn held(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read())
    }

    /// Runs a call here, or on a thread that may block if it takes long.
    async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        call: impl FnOnce(&Self) -> Result<T, EnclaveError> + Send + 'static,
    ) -> Result<T, EnclaveError> {
        if bytes <= INLINE_BYTES_MAX {
            return call(self);
        }
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || call(&this)).await;
        done.unwrap_or_else(|e| {
            Err(EnclaveError::Failed {
                reason: e.to_string(),
            })
        })
    }
}

fn check_context(envelope: &Envelope, context: &Context) -> Result<(), Refusal> {
    match envelope.context().difference(context) {
        None => Ok(()),
        Some(field) => Err(Refusal::ContextMismatch {
            field: field.to_owned(),
        }),
    }
}

impl Enclave for LocalEnclave {
    fn public_keys(&self) -> BoxFuture<'_, Result<Vec<KeyAnnouncement>, EnclaveError>> {
        Box::pin(std::future::ready(Ok(self.public_keys_now())))
    }

    fn seal(&self, request: SealRequest) -> BoxFuture<'_, Result<Sealed, EnclaveError>> {
        let bytes = request.payload.len();
        Box::pin(self.run(bytes, move |enclave| enclave.seal_now(&request)))
    }

    fn open(
        &self,
        envelope: Envelope,
        context: Context,
    ) -> BoxFuture<'_, Result<Opening, EnclaveError>> {
        let bytes = envelope.ciphertext().len();
        Box::pin(self.run(bytes, move |enclave| enclave.open_now(&envelope, &context)))
    }

    fn reseal(
        &self,
        envelope: Envelope,
        context: Context,
        recipients: Vec<KeyAnnouncement>,
    ) -> BoxFuture<'_, Result<Envelope, EnclaveError>> {
        let bytes = envelope.ciphertext().len();
        Box::pin(self.run(bytes, move |enclave| {
            enclave.reseal_now(envelope, &context, &recipients)
        }))
    }

    fn tags(
        &self,
        request: TagRequest,
    ) -> BoxFuture<'_, Result<Vec<[u8; TAG_BYTES]>, EnclaveError>> {
        Box::pin(async move { self.tags_now(&request) })
    }

    fn recognise(
        &self,
        request: RecogniseRequest,
    ) -> BoxFuture<'_, Result<Option<Recognised>, EnclaveError>> {
        // Thousands of senders that are not known yet take a while, once.
        let bytes = if request.senders.len() > 256 {
            usize::MAX
        } else {
            0
        };
        Box::pin(self.run(bytes, move |enclave| enclave.recognise_now(&request)))
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, EnclaveError>> {
        Box::pin(std::future::ready(Ok(self.health_now())))
    }
}
