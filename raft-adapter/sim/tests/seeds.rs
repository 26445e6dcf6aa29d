//! Some hundred seeds of everything, and what makes the search worth its name: it repeats, and it gets everywhere.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends by panicking and may say what it saw"
)]

use raft_adapter_sim::{Campaign, Fault, LATER, Options, Situation, run};

/// Too rare for a few hundred seeds; longer searches meet them.
const RARE: &[Situation] = &[
    Situation::NoQuorumLeft,
    Situation::InterruptedRemove,
    Situation::DamageMetRunning,
];

#[test]
fn some_hundred_seeds_hold_and_get_everywhere() {
    let report = Campaign {
        first: 0,
        seeds: 600,
        threads: 2,
        template: Options::default(),
        shrinks: true,
        stops_early: false,
    }
    .run();
    println!("{report}");
    assert!(report.failures.is_empty(), "{report}");
    assert_eq!(report.faults_missing(), []);
    let missing = report.situations_missing();
    let missing: Vec<_> = missing.iter().filter(|it| !RARE.contains(it)).collect();
    assert!(missing.is_empty(), "never met: {missing:?}");
    assert!(report.acknowledged > 600 * 10 && report.changes > 300);
}

#[test]
fn equal_seeds_give_equal_histories_on_any_thread() {
    for seed in [3, 77, 1234] {
        let options = Options {
            trace: true,
            ..Options::seed(seed)
        };
        let here = run(&options);
        let there = std::thread::scope(|scope| {
            let twin = scope.spawn(|| run(&options));
            twin.join().unwrap()
        });
        assert_eq!(here.sum, there.sum);
        assert_eq!(here.history, there.history);
        assert_eq!(here.counters, there.counters);
        assert!(here.steps > 500);
    }
    assert_ne!(run(&Options::seed(1)).sum, run(&Options::seed(2)).sum);
}

#[test]
fn a_kind_that_is_switched_off_does_not_happen() {
    for seed in 0..10 {
        let without = Fault::ALL.iter().copied().filter(|it| *it != Fault::Kill);
        let outcome = run(&Options {
            without: without.collect(),
            ..Options::seed(seed)
        });
        assert_eq!(outcome.violation, None, "seed {seed}");
        let kinds: Vec<_> = outcome.counters.faults.keys().copied().collect();
        assert!(kinds.iter().all(|it| *it == Fault::Kill), "{kinds:?}");
    }
}

/// A member that forgot what is committed before a membership change led with a configuration two changes old; a member
/// whose record of a membership was damaged went on without it; a candidate did not hear from a member of an older term that the
/// joint configuration was left in which it needed that member's vote. A member with an older disk took a heartbeat's word for what
/// is committed, for its leader had cut its log; a member whose disk was lost took a manifest and went on. Of a sole voter whose
/// vote for itself was lost, the simulation held what it had never said to anyone for a promise. A half-made file whose removal
/// had failed came back with a power loss, behind another half-made one, and the log was held for damaged.
#[test]
fn seeds_that_once_failed_hold() {
    for line in [
        "sim --seed 10008914 --steps 1304 --members 3 --without loss,duplication,partition,power-loss,interrupted-operation,lost-writes,torn-sectors,lost-directory-entries,bit-flip,disk-full,failed-sync,slow-disk,old-disk,wipe,clock-skew,pause,change,retry,transfer,remove-leader",
        "sim --seed 20137241 --members 3 --without loss,duplication,one-way-cut,kill,interrupted-operation,lost-writes,torn-sectors,lost-directory-entries,write-error,failed-sync,slow-disk,wipe,pause,change,transfer,remove-leader,orderly-stop",
        "sim --seed 20117812 --members 3 --without loss,duplication,reordering,kill,power-loss,interrupted-operation,lost-writes,torn-sectors,lost-directory-entries,write-error,disk-full,clock-skew,pause,forced-change,retry,transfer,remove-leader,orderly-stop",
        "sim --seed 20229552 --members 3 --without loss,duplication,reordering,partition,kill,power-loss,interrupted-operation,lost-writes,torn-sectors,lost-directory-entries,read-error,write-error,disk-full,failed-sync,slow-disk,old-disk,clock-skew,change,retry,transfer,remove-leader,orderly-stop",
        "sim --seed 20165927 --steps 1405 --members 3 --without loss,one-way-cut,partition,lost-directory-entries,bit-flip,write-error,disk-full,wipe,clock-skew,remove-leader,orderly-stop",
        "sim --seed 10003153 --steps 630 --members 3 --without loss,duplication,reordering,one-way-cut,lost-writes,torn-sectors,lost-directory-entries,read-error,slow-disk,old-disk,pause,change,transfer,remove-leader",
    ] {
        let mut options: Options = line.parse().unwrap();
        options.without.extend(LATER);
        assert_eq!(run(&options).violation, None, "{line}");
    }
    for line in [
        "sim --seed 60062485 --steps 2766 --members 1 --without loss,duplication,kill,power-loss,lost-writes,torn-sectors,bit-flip,disk-full,failed-sync,clock-skew,pause,forced-change,retry,orderly-stop",
        "sim --seed 60084024 --steps 2052 --members 2 --without duplication,one-way-cut,kill,blackout,torn-sectors,disk-full,slow-disk,old-disk,pause,change,forced-change,retry,transfer,remove-leader,orderly-stop",
        "sim --seed 60114291 --members 3 --without reordering,one-way-cut,partition,power-loss,bit-flip,orderly-stop",
        "sim --seed 80075834 --members 3 --without loss,duplication,reordering,one-way-cut,partition,kill,power-loss,blackout,lost-writes,torn-sectors,lost-directory-entries,read-error,write-error,disk-full,failed-sync,failing-recovery,clock-skew,pause,change,forced-change,retry,transfer,remove-leader,orderly-stop",
        "sim --seed 70020351 --members 3 --without duplication,reordering,one-way-cut,power-loss,lost-directory-entries,bit-flip,read-error,failing-recovery,old-disk,clock-skew,change,retry,transfer,remove-leader,orderly-stop",
    ] {
        let options: Options = line.parse().unwrap();
        assert_eq!(run(&options).violation, None, "{line}");
    }
}
