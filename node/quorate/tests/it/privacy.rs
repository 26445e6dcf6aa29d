//! Private transactions in whole consortia: what a user of Quorum does, in both public forms, while nothing, the leader or an enclave
//! fails; and that nobody learns what is not for them.
//!
//! The scenarios of the table run one after the other in one consortium, because starting one costs seconds. `QUORATE_SCENARIO=text`
//! runs only those whose names have the text in them.

mod basics;
mod certificates;
mod codes;
mod dual_state;
mod events;
mod extension;
mod flags;
mod given_up;
mod groups;
mod http;
mod leaks;
mod limits;
mod nested;
mod parties;
mod raw;
mod recovery;
mod secured;
mod signing;
mod socket;
mod suites;
mod table;
mod third_party;
mod web3js_quorum;
