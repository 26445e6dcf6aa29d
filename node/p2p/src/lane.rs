//! A bounded queue to the application, limited in items and in bytes. What an item takes is given back when it is dropped.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The place an item takes in its lane; dropping it gives the place back.
pub(crate) type Place = OwnedSemaphorePermit;

/// Why an item did not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneError {
    /// No room in items or bytes.
    Full,
    /// The application dropped the receiver.
    Closed,
}

/// The network's end of a lane.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    sender: mpsc::Sender<T>,
    room: Arc<Semaphore>,
    bytes_max: usize,
}

impl<T> Clone for Lane<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            room: Arc::clone(&self.room),
            bytes_max: self.bytes_max,
        }
    }
}

impl<T> Lane<T> {
    pub(crate) fn new(items_max: usize, bytes_max: usize) -> (Self, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(items_max);
        (
            Self {
                sender,
                room: Arc::new(Semaphore::new(bytes_max)),
                bytes_max,
            },
            receiver,
        )
    }

    /// Items of the largest size still pass: they count as the whole lane.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX)
    }

    /// Waits for room.
    pub(crate) async fn send(
        &self,
        bytes: usize,
        item: impl FnOnce(Place) -> T,
    ) -> Result<(), LaneError> {
        let place = self.place(bytes).await?;
        self.pass(item(place)).await
    }

    /// Waits for room for an item whose bytes are still to come.
    pub(crate) async fn place(&self, bytes: usize) -> Result<Place, LaneError> {
        Arc::clone(&self.room)
            .acquire_many_owned(self.permits(bytes))
            .await
            .map_err(|_closed| LaneError::Closed)
    }

    /// Waits until the queue takes an item that has its [`Place`] already.
    pub(crate) async fn pass(&self, item: T) -> Result<(), LaneError> {
        self.sender
            .send(item)
            .await
            .map_err(|_closed| LaneError::Closed)
    }

    /// Does not wait.
    pub(crate) fn try_send(
        &self,
        bytes: usize,
        item: impl FnOnce(Place) -> T,
    ) -> Result<(), LaneError> {
        let place = Arc::clone(&self.room)
            .try_acquire_many_owned(self.permits(bytes))
            .map_err(|_none| LaneError::Full)?;
        self.sender
            .try_send(item(place))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => LaneError::Full,
                mpsc::error::TrySendError::Closed(_) => LaneError::Closed,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_are_given_back_when_the_item_is_dropped() {
        let (lane, mut receiver) = Lane::<(u8, Place)>::new(8, 100);
        lane.try_send(60, |place| (1, place)).unwrap();
        assert_eq!(lane.try_send(60, |place| (2, place)), Err(LaneError::Full));
        let item = receiver.recv().await.unwrap();
        assert_eq!(lane.try_send(60, |place| (2, place)), Err(LaneError::Full));
        drop(item);
        lane.try_send(60, |place| (2, place)).unwrap();
    }

    #[tokio::test]
    async fn an_item_larger_than_the_lane_passes_alone() {
        let (lane, mut receiver) = Lane::<Place>::new(8, 100);
        lane.send(1_000, |place| place).await.unwrap();
        assert_eq!(lane.try_send(1, |place| place), Err(LaneError::Full));
        drop(receiver.recv().await);
        lane.try_send(1, |place| place).unwrap();
        drop(receiver);
        assert_eq!(lane.try_send(1, |place| place), Err(LaneError::Closed));
    }
}
