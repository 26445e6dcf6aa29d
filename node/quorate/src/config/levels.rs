//! How much is logged.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// Reads a level, or a list of levels by room: "info,quorate_p2p=debug". What no level is given for is not logged. `None` if it is
/// neither. The filters of `tracing-subscriber` understand more, regular expressions among it, of which a few characters can
/// take minutes.
pub fn log_filter(text: &str) -> Option<Targets> {
    let level = |name: &str| match name.trim() {
        "" => None,
        name => name.parse::<LevelFilter>().ok(),
    };
    text.split(',')
        .try_fold(Targets::new(), |targets, part| match part.split_once('=') {
            None => Some(targets.with_default(level(part)?)),
            Some((room, _)) if room.trim().is_empty() => None,
            Some((room, name)) => Some(targets.with_target(room.trim(), level(name)?)),
        })
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_holds_for_all_rooms_that_have_none_of_their_own() {
        let filter = log_filter("info, quorate_p2p=debug,raft=off").unwrap();
        assert!(filter.would_enable("quorate_rpc", &Level::INFO));
        assert!(!filter.would_enable("quorate_rpc", &Level::DEBUG));
        assert!(filter.would_enable("quorate_p2p::swarm", &Level::DEBUG));
        assert!(!filter.would_enable("raft", &Level::ERROR));
    }

    #[test]
    fn what_is_no_level_is_refused_at_once() {
        for text in [
            "",
            "loud",
            "info,",
            "quorate=",
            "=info",
            "a=b=info",
            "info,quorate=loud",
        ] {
            assert!(log_filter(text).is_none(), "{text:?}");
        }
        let expression = format!("ftre[ic{{e={}*.'..w}}e", "w.".repeat(60));
        assert!(log_filter(&expression).is_none());
    }
}
