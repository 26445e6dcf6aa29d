//! Configuration of one node: file < environment < flags, all faults at once.
//!
//! `settings.rs` is the one table: the structs, their defaults, the comments in generated files, the names of
//! environment variables and the output of `quorate config show` all come from it, so they cannot drift apart.

mod forms;
mod levels;
mod load;
mod privacy;
mod render;
mod rooms;
mod rules;
mod settings;
mod table;

pub use forms::parse_duration;
pub use levels::log_filter;
pub use load::{Flag, Loaded, Origin};
pub use privacy::{EnclavePlace, PASSPHRASE_VARIABLE};
pub use render::render;
pub use settings::NodeConfig;
pub use table::settings_table;
