//! `quorate config`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::output;
use super::run::ConfigSource;
use crate::config::{NodeConfig, Origin, render, settings_table};
use crate::exit::Ended;

/// Looking at the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every value in force and where it came from; fails with 3 if something is wrong.
    Show(Box<ShowArgs>),
    /// Print a configuration file with every setting, its meaning and its default.
    Default,
}

/// Arguments of `quorate config show`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  quorate config show --config my-net/node1/quorate.toml\n  QUORATE_RPC_LISTEN=0.0.0.0:80 quorate config show --json"
)]
pub struct ShowArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl ConfigCommand {
    /// Does it.
    ///
    /// # Errors
    /// All faults of the configuration.
    pub fn run(&self) -> Result<(), Ended> {
        match self {
            Self::Show(args) => args.run(),
            Self::Default => Ok(output::print(render(&NodeConfig::default()).trim_end())?),
        }
    }
}

impl ShowArgs {
    fn run(&self) -> Result<(), Ended> {
        let loaded = self.source.load()?;
        for warning in &loaded.warnings {
            output::note(&format!("warning: {warning}"));
        }
        let mut lines = Vec::new();
        let mut object = Map::new();
        for setting in settings_table().iter().flat_map(|section| section.settings) {
            let value = (setting.show)(&loaded.config);
            let origin = loaded
                .origins
                .get(&setting.path())
                .unwrap_or(&Origin::Default);
            let shown = value
                .as_ref()
                .map_or("(not set)".to_owned(), toml::Value::to_string);
            lines.push(format!("{:<40} {shown:<40} # {origin}", setting.path()));
            let value = serde_json::to_value(&value).unwrap_or(Value::Null);
            object.insert(
                setting.path(),
                json!({ "value": value, "origin": origin.to_string() }),
            );
        }
        match self.json {
            true => output::print_json(&Value::Object(object))?,
            false => output::print(&lines.join("\n"))?,
        }
        Ok(())
    }
}
