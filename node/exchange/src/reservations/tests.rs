use super::*;

const A: Address = Address::repeat_byte(1);
const B: Address = Address::repeat_byte(2);

fn payload(n: u8) -> PayloadHash {
    PayloadHash::from_bytes([n; 64])
}

fn node(n: u8) -> NodeKey {
    NodeKey::from([n; 33])
}

fn set(of: &[Address]) -> BTreeSet<Address> {
    of.iter().copied().collect()
}

#[tokio::test(start_paused = true)]
async fn a_contract_is_reserved_for_one_payload_until_it_is_released_or_its_time_is_over() {
    let reservations = Reservations::new(Duration::from_secs(30));
    assert_eq!(
        reservations.reserve([A].iter(), &payload(1), &node(1)),
        Ok(())
    );
    assert_eq!(
        reservations.reserve([A].iter(), &payload(1), &node(1)),
        Ok(())
    );
    assert_eq!(
        reservations.reserve([B, A].iter(), &payload(2), &node(2)),
        Err(A)
    );
    // Nothing was taken of what was refused.
    assert_eq!(
        reservations.reserve([B].iter(), &payload(3), &node(3)),
        Ok(())
    );
    // Only its sender gives it up.
    reservations.withdraw(&payload(1), &node(2));
    assert_eq!(
        reservations.reserve([A].iter(), &payload(2), &node(2)),
        Err(A)
    );
    reservations.withdraw(&payload(1), &node(1));
    assert_eq!(
        reservations.reserve([A].iter(), &payload(2), &node(2)),
        Ok(())
    );
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(
        reservations.reserve([A, B].iter(), &payload(4), &node(4)),
        Ok(())
    );
}

#[tokio::test(start_paused = true)]
async fn turns_come_one_after_the_other_and_after_what_is_under_way() {
    let reservations = Arc::new(Reservations::new(Duration::from_secs(30)));
    let soon = || Instant::now() + Duration::from_secs(5);
    let first = reservations.turn(set(&[A, B]), soon()).await.unwrap();
    assert!(matches!(reservations.turn(set(&[B]), soon()).await, Err(c) if c == B));
    reservations
        .reserve([A].iter(), &payload(1), &node(1))
        .unwrap();
    drop(first);
    // Its lane is free, the contract is not.
    assert!(matches!(reservations.turn(set(&[A]), soon()).await, Err(c) if c == A));
    let waiting = tokio::spawn({
        let reservations = Arc::clone(&reservations);
        async move { reservations.turn(set(&[A]), soon()).await.is_ok() }
    });
    tokio::task::yield_now().await;
    reservations.release(&payload(1));
    assert!(waiting.await.unwrap());
    // A reservation that nobody releases ends by itself.
    reservations
        .reserve([A].iter(), &payload(2), &node(2))
        .unwrap();
    let late = Instant::now() + Duration::from_secs(60);
    assert!(reservations.turn(set(&[A]), late).await.is_ok());
    assert!(reservations.turn(set(&[]), Instant::now()).await.is_ok());
}
