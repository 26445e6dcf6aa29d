//! A commented `quorate.toml`.

use std::fmt::Write as _;

use toml::Value;

use super::settings::NodeConfig;
use super::table::{Setting, settings_table};

const HEAD: &str = "\
# Configuration of one Quorate node. Every setting is here with its meaning and its default.
# The environment overrides the file (QUORATE_<SECTION>_<NAME>), flags override both.
# Paths that are not absolute begin at the folder of this file. `quorate config show --config FILE` prints what is in force.
";

/// The configuration as text that reads back as the same configuration.
pub fn render(config: &NodeConfig) -> String {
    let defaults = NodeConfig::default();
    let mut out = String::from(HEAD);
    for section in settings_table() {
        out.push('\n');
        comment(&mut out, section.doc);
        line(&mut out, format_args!("[{}]", section.name));
        for setting in section.settings {
            comment(&mut out, setting.doc);
            match (setting.show)(&defaults) {
                Some(default) => line(
                    &mut out,
                    format_args!("# Default {default}; {}.", setting.variable()),
                ),
                None => line(
                    &mut out,
                    format_args!("# Not set by default; {}.", setting.variable()),
                ),
            }
            match (setting.show)(config) {
                Some(value) => line(
                    &mut out,
                    format_args!("{} = {}", setting.name, inline(&value)),
                ),
                None => line(
                    &mut out,
                    format_args!("# {} = \"{}\"", setting.name, example(setting)),
                ),
            }
        }
    }
    out
}

fn comment(out: &mut String, doc: &[&str]) {
    for text in doc {
        line(out, format_args!("# {}", text.trim()));
    }
}

/// Writing into a string cannot fail.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let written = writeln!(out, "{text}");
    debug_assert!(written.is_ok());
}

/// What could stand in place of a value that is not set.
fn example(setting: &Setting) -> &'static str {
    match (setting.section, setting.name) {
        ("node", "genesis") => "../genesis.json",
        ("privacy", "key_dir") => "enclave",
        ("privacy", "default_key") => "main",
        ("privacy", "enclave_tls_server_name") => "enclave.example",
        ("privacy" | "third_party", name) if name.contains("tls") => "tls/file.pem",
        ("third_party", "socket") => "third-party.sock",
        _ => "password.txt",
    }
}

/// A table on one line, so that it does not end the section.
fn inline(value: &Value) -> String {
    match value {
        Value::Table(table) if table.is_empty() => "{}".into(),
        Value::Table(table) => {
            let pairs: Vec<String> = table
                .iter()
                .map(|(key, value)| format!("{key} = {value}"))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use quorate_chain::PublicForm;

    use crate::config::{EnclavePlace, Loaded};

    #[test]
    fn the_rendered_defaults_read_back_as_the_defaults() {
        let text = render(&NodeConfig::default());
        let loaded = Loaded::from_text(&text, Path::new(""), Vec::new(), &[]).unwrap();
        assert_eq!(loaded.config, NodeConfig::default());
    }

    #[test]
    fn every_setting_stands_in_the_file_with_a_comment() {
        let text = render(&NodeConfig::default());
        for section in settings_table() {
            assert!(text.contains(&format!("\n[{}]\n", section.name)));
            for setting in section.settings {
                assert!(!setting.doc.is_empty(), "{} has no comment", setting.path());
                assert!(
                    text.contains(&format!("{} = ", setting.name)),
                    "{} is missing",
                    setting.path()
                );
            }
        }
    }

    #[test]
    fn values_that_differ_survive_too() {
        let mut config = NodeConfig::default();
        config.p2p.addresses.insert(2, "node2:30303".into());
        config.pool.min_gas_price = u128::MAX;
        config.node.genesis = Some("/g/genesis.json".into());
        config.rpc.cors_origins = vec!["https://a \"quoted\" name".into()];
        config.privacy.enclave =
            EnclavePlace::Remote("https://enclave.example:9101".parse().unwrap());
        config.privacy.public_form = PublicForm::Quorum;
        for file in [
            &mut config.privacy.enclave_tls_certificate,
            &mut config.privacy.enclave_tls_key,
            &mut config.privacy.enclave_tls_server_ca,
        ] {
            *file = Some("/tls/file.pem".into());
        }
        let loaded = Loaded::from_text(&render(&config), Path::new(""), Vec::new(), &[]).unwrap();
        assert_eq!(loaded.config, config);
    }
}
